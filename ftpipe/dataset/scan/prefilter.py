"""Finds the lines that content rules must read, with one pass of Hyperscan over a whole block of lines.

The patterns are those of the rules, shortened and without what Hyperscan lacks (lookaround, check digits): every line
on which a rule can fire is marked, and few others. Without the package ``byte_search.find_marks`` does it, slower.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from ftpipe.dataset.record_traits import (
    ALL_MARKS,
    AUXILIARY_MARKS,
    CODE_FENCE,
    DISPUTED_CHARACTERS,
    REASONING_BLOCK,
    REFUSAL_WORDING,
    REFUSAL_WORDS,
    UNUSUAL_KEYS,
    VENDOR_WORDS,
)
from ftpipe.dataset.scan.byte_search import ESCAPES, Marks
from ftpipe.dataset.sensitive_data import SECRET_PATTERNS

MAX_REPEATS = 8
"""Repetitions that are enough for a mark; more of them take long to compile."""


def relax_pattern(pattern: str) -> str:
    """A pattern that Hyperscan accepts and that matches in JSON wherever ``pattern`` matches in a text."""
    # There is no lookaround, and a word at the end may have any letters, literal or escaped.
    simple = re.sub(r"\\b|\(\?![^)]*\)|\[\\w\.-\]\+$", "", pattern)
    short = re.sub(r"\{(\d+)(?:,\d*)?\}", lambda match: f"{{{min(int(match[1]), MAX_REPEATS)},}}", simple)
    return short.replace("://", r":\\?/\\?/")


_BEFORE_DIGIT = r"(?:[^\d.\-]|\\u[0-9a-fA-F]{4})"
_BEFORE_PHONE = r"(?:[^A-Za-z0-9_.+/=\-]|\\[nrtbf]|\\u[0-9a-fA-F]{4})"
"""What can precede a number in JSON, where the character itself can be written as an escape."""
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("special", r"<\|"),
    ("terminal", r"\x1b"),
    # The character before the @ must not be the letter of an escape such as \n, which decorators in code have.
    ("email", r"(?:[^\\]|\\\\)[\w.+\-\x80-\xff]@[A-Za-z0-9-]+\.[A-Za-z0-9-]"),
    ("number", _BEFORE_PHONE + r"\+[1-9]\d{0,2}[ .\-]?(?:\(\d{1,4}\)[ .\-]?)?\d{1,4}(?:[ .\-]?\d{2,4}){2}"),
    ("number", r"(?:\(\d{3}\) ?|\d{3}[\-.])\d{3}[\-.]\d{4}"),
    ("number", _BEFORE_DIGIT + r"(?:\d{4}[ \-]?){3}\d"),
    ("number", _BEFORE_DIGIT + r"3[47]\d{2}[ \-]?\d{6}[ \-]?\d{5}"),
    ("number", r"\d{3}-\d{2}-\d{4}"),
    ("iban", r"[A-Z]{2}\d{2} ?[A-Z0-9]{4} ?[A-Z0-9]{4}"),
    *(("secret", relax_pattern(pattern)) for pattern in SECRET_PATTERNS),
    ("placeholder", r"TODO"),
    ("placeholder", r"XXXX"),
    ("placeholder", r"(?i)lorem ipsum"),
    ("placeholder", r"\{\{ ?[A-Za-z_]"),
    ("placeholder", r"(?i)[<\[](?:insert|your) "),
    ("placeholder", r"\[Name\]"),
    ("messages", r"""(?:\\"|')(?:role|from)(?:\\"|')"""),
    ("mojibake", r"\xc3(?:\x83\xc2|\xa2\xe2\x82|\x82\xc2)|\xc3[\x82\x83]\xc2|\xc3\xaf\xc2\xbb"),
    ("mojibake", r"\xc3\xa2\xe2\x82\xac"),
    ("invisible", r"\xe2\x80[\x8b\xaa-\xae]|\xe2\x81[\xa0-\xa9]|\xef\xbb\xbf|\xe1\xa0\x8e|\xf3\xa0[\x80\x81]"),
    ("separator", r"\xe2\x80[\xa8\xa9]|\xc2\x85"),
    (ALL_MARKS, ESCAPES.decode()),
    (CODE_FENCE, "```"),
    (REASONING_BLOCK, "<think"),
    (REFUSAL_WORDING, "(?i)" + "|".join(REFUSAL_WORDS)),
    (REFUSAL_WORDING, "|".join(VENDOR_WORDS)),
    (UNUSUAL_KEYS, r'"[ \t\r]+:|\\":'),
    (
        DISPUTED_CHARACTERS,
        r"\xe0(?:\xa2\x8f|\xb1\x9c|\xb3\x9c)|\xe1\xab[\x8f-\xab]|\xea\x9f[\x8e-\xb1]"
        r"|\xf0(?:\x90[\xa5\xbb]|\x91[\xad\xb6\xb7]|\x96[\xba\xbb\xbf]|\x98[\x9f\xb4\xb6\xb7]|\x9e\x9b)"
        r"|\xf0(?:\xab\x9c|\xac\xba|\xb2[\x8e-\xbf]|\xb3[\x80-\x91])",
    ),
    (
        DISPUTED_CHARACTERS,
        r"\\u(?:088[fF]|0[cC][5dD][cC]|1[aA][c-eC-E]|[aA]7[c-fC-F]"
        r"|[dD]8(?:0[2367]|1[bB]|2[13]|39|6[dD]|73|8[89a-dA-D]))",
    ),
)


def is_available() -> bool:
    """True if Hyperscan is installed; it has no build for Windows."""
    return find_spec("hyperscan") is not None


class Prefilter:
    """The compiled patterns; made once per process."""

    def __init__(self) -> None:
        import hyperscan

        self._names = [name for name, _ in _PATTERNS]
        self._database = hyperscan.Database()
        self._database.compile(
            expressions=[pattern.encode("latin-1") for _, pattern in _PATTERNS],
            ids=list(range(len(_PATTERNS))),
            elements=len(_PATTERNS),
            flags=[0] * len(_PATTERNS),
        )

    def find(self, data: bytes, starts: list[int]) -> Marks:
        """The marks of the lines of a block.

        Args:
            data: Whole lines.
            starts: Offset of each line in ``data``.
        """
        matches: set[tuple[int, int]] = set()
        names = self._names

        def on_match(pattern: int, _start: int, end: int, _flags: int, _context: Any) -> None:  # noqa: ANN401
            matches.add((end, pattern))

        self._database.scan(data, match_event_handler=on_match)
        marks: Marks = {}
        for end, pattern in matches:
            marks.setdefault(bisect_right(starts, end - 1) - 1, set()).add(names[pattern])
        return marks


def pop_auxiliary_marks(marks: Marks) -> Marks:
    """Remove the marks that no rule names and return them; lines with ``ALL_MARKS`` get all of them."""
    auxiliary: Marks = {}
    for index, line_marks in list(marks.items()):
        if ALL_MARKS in line_marks:
            auxiliary[index] = set(AUXILIARY_MARKS)
        elif present := line_marks & AUXILIARY_MARKS:
            auxiliary[index] = present
        line_marks -= AUXILIARY_MARKS
        if not line_marks:
            del marks[index]
    return auxiliary


compiled = lru_cache(maxsize=1)(Prefilter)
"""The prefilter of this process."""
