"""Detects the encoding of a text: Unicode by its byte order mark or NUL bytes, and Windows-1252 by its words."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable

from ftpipe.errors import UsageError
from ftpipe.suggestions import did_you_mean

SAMPLE_BYTES = 4096
MIN_NUL_SHARE = 0.2
"""Share of NUL bytes at even or odd positions from which a text without a mark is taken for UTF-16."""
MAX_IMPLAUSIBLE_SHARE = 0.02
"""Of the characters outside ASCII that a text read as Windows-1252 may have in the wrong places."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_COMMON = ("utf-8", "utf-16", "cp1252", "cp1250", "cp1251", "latin-1", "mac-roman", "gb18030", "shift-jis")
_WORD = re.compile(r"[^\W\d_]+")
_ODD_IN_WORD = re.compile(r"(?<=[^\W\d_])[^\x00-\x7f\w’·\xad](?=[^\W\d_])|[\x80-\x9f]")
"""A symbol between two letters, or a code that Windows-1252 does not have."""
_QUOTED = re.compile("“([^“”]+)”|„([^„“]+)“")
_DASH_BETWEEN_WORDS = re.compile(r"(?<=[^\W\d_]{2})(?<![ÂÃâ])[–—…](?=[^\W\d_]{2})|(?<=[A-Z])[–—…](?=[A-Z])")
"""As in ``Mo–Sa`` and ``A–Z``. Before a small letter, a few of them say nothing; beside a single one it is the ó of
another encoding, and behind Ã the rest of a letter in UTF-8."""
_SHORT_WORDS = frozenset("ÀÁÈÉÌÍÒÓÙÚàáèéìíòóùúÅåÖö")


def unicode_encoding(head: bytes) -> str:
    """The Unicode encoding of a text from its first bytes; ``utf-8`` if nothing else shows, empty if it is no text."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    sample = head[:SAMPLE_BYTES]
    if b"\x00" not in sample:
        return "utf-8"
    size = max(1, len(sample) // 4)
    first, second, third, fourth = (sample[index::4].count(0) / size for index in range(4))
    odd, even = (second + fourth) / 2, (first + third) / 2
    if min(second, third, fourth) > 0.9:
        return "utf-32-le"
    if min(first, second, third) > 0.9:
        return "utf-32-be"
    if odd >= MIN_NUL_SHARE and even <= odd / 10:
        return "utf-16-le"
    if even >= MIN_NUL_SHARE and odd <= even / 10:
        return "utf-16-be"
    return ""


def word_against_cp1252(parts: Iterable[bytes]) -> str:
    """A word that makes no sense as Windows-1252, the encoding of Excel in Western Europe; empty if the text does.

    Accented letters must stand in words with plain letters, and symbols not between letters. The letters of another
    encoding, such as Windows-1251 or Shift JIS, do neither; nor do those of UTF-8 beside a few broken bytes.

    Args:
        parts: The lines or other parts with bytes above 127.
    """
    plausible = implausible = neutral = 0
    first = worst = ""
    for part in parts:
        try:
            text = part.decode("cp1252")
        except UnicodeDecodeError:
            return part.decode("cp1252", "replace")
        first, before = first or text, implausible
        text, quoted = _QUOTED.subn(r" \1\2 ", text)
        plausible += 2 * quoted
        dashes = [text[match.end()].isupper() for match in _DASH_BETWEEN_WORDS.finditer(text)]
        odd = len(_ODD_IN_WORD.findall(text))
        plausible, neutral = plausible + sum(dashes), neutral + dashes.count(False)
        implausible += odd - len(dashes)
        plausible += sum(1 for character in text if not character.isascii() and not character.isalpha()) - odd
        for word in _WORD.findall(text):
            accented = sum(not character.isascii() for character in word)
            fits = accented * 3 <= len(word) * 2 or word in _SHORT_WORDS
            plausible, implausible = plausible + accented * fits, implausible + accented * (not fits)
        worst = worst or (text if implausible > before else "")
    if neutral > plausible:
        return worst or first
    return "" if plausible > 0 and implausible <= MAX_IMPLAUSIBLE_SHARE * (plausible + implausible) else worst or first


def check_encoding_name(name: str) -> str:
    """The normal name of an encoding.

    Raises:
        UsageError: There is none of this name.
    """
    try:
        codec = codecs.lookup(name)
        "".encode(name)
    except (LookupError, ValueError) as exc:
        raise UsageError(f"there is no text encoding {name!r}", did_you_mean(name, _COMMON)) from exc
    return codec.name
