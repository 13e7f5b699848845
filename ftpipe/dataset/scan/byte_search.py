r"""Finds the lines that content rules must read, for a whole block of lines at once, without Hyperscan.

Byte searches replace patterns on every text; see ``record_traits`` for what a mark means. Most searches run over the
block without its lower-case ASCII letters, a third of its size. Lines that write ASCII or invisible characters as
``\uXXXX`` get every mark, because such an escape may hide what a search looks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ftpipe.dataset.record_traits import ALL_MARKS
from ftpipe.dataset.sensitive_data import SECRET_PREFIXES

Marks = dict[int, set[str]]
"""Index of a line in its block → its marks."""
_LOWER = bytes(range(ord("a"), ord("z") + 1))
_SEPARATED = b" -./()"
_DIGITS = bytes(0x30 if 0x30 <= i <= 0x39 else (0x2D if i in _SEPARATED else i) for i in range(256))
_CODES = bytes(0x41 if 0x30 <= i <= 0x39 or 0x41 <= i <= 0x5A else i for i in range(256))

_PLAIN: tuple[tuple[bytes, str], ...] = (
    (b"<|", "special"),
    (b"@", "email"),
    (b"@", "secret"),
    (b"TODO", "placeholder"),
    (b"{{", "placeholder"),
    (b"XXXX", "placeholder"),
    (b"[N", "placeholder"),
    (b"\x1b", "terminal"),
)
_PLACEHOLDERS = (b"orem ipsum", b"<insert ", b"[insert ", b"<your ", b"[your ")
"""Beginnings of placeholders, searched in lower case."""
_MESSAGES = (b'\\"role\\"', b"'role'", b'\\"from\\"', b"'from'")
"""Keys of messages inside a text, as JSON escapes them and as Python writes them."""
_SECRETS = tuple(prefix.encode() for prefix in SECRET_PREFIXES if prefix != "://")
"""A secret in a URL has an @, which is searched anyway."""
_NUMBERS = (b"0000000", b"000-0000", b"00-00-00", b"00-0000")
_ACCOUNT = b"AAAA AAAA AAAA"
_CODE_RUN = b"A" * 12
ESCAPES = rb"\\u(?:00[0-7]|009|00[cCeE]|20(?:0[b-fB-F]|2[89a-eA-E]|6)|180|[fF][eE]|[dD]83[cC]|[dD][bB])"
_FOREIGN = re.compile(
    rb"[\xc2\xc3\xe1\xe2\xef\xf3](?:(?P<mojibake>[\x82\x83\xaf]\xc2|\xa2\xe2\x82)"
    rb"|(?P<invisible>\x80[\x8b\xaa-\xae]|\x81[\xa0-\xa9]|\xbb\xbf|\xa0[\x80\x81\x8e])|(?P<separator>\x80[\xa8\xa9]|\x85))"
)
_ESCAPES = re.compile(ESCAPES)
"""Escapes of characters that the other searches look for as bytes."""


def find_marks(data: bytes, _starts: object = None) -> Marks:
    """The marks of the lines of a block."""
    marks: Marks = {}
    reduced = data.translate(None, _LOWER)
    for needle, mark in _PLAIN:
        _mark(marks, lines_with(reduced, needle), mark)
    numbers = reduced.translate(_DIGITS)
    for needle in _NUMBERS:
        _mark(marks, lines_with(numbers, needle), "number")
    codes = reduced.translate(_CODES)
    _mark(marks, lines_with(codes, _CODE_RUN), "iban")
    _mark(marks, lines_with(codes, _ACCOUNT), "iban")
    for needle in _SECRETS:
        _mark(marks, lines_with(data, needle), "secret")
    for needle in _MESSAGES:
        _mark(marks, lines_with(data, needle), "messages")
    lowered = data.lower()
    for needle in _PLACEHOLDERS:
        _mark(marks, lines_with(lowered, needle), "placeholder")
    if b"\\u" in data:
        for index, _ in matches_by_line(_ESCAPES, data):
            marks.setdefault(index, set()).add(ALL_MARKS)
    if not data.isascii():
        for index, kind in matches_by_line(_FOREIGN, reduced):
            marks.setdefault(index, set()).add(kind)
    return marks


def _mark(marks: dict[int, set[str]], lines: Iterator[int], mark: str) -> None:
    for index in lines:
        marks.setdefault(index, set()).add(mark)


def lines_with(data: bytes, needle: bytes) -> Iterator[int]:
    """Indices of the lines that contain the needle."""
    at, line, counted = data.find(needle), 0, 0
    while at >= 0:
        line += data.count(b"\n", counted, at)
        yield line
        counted = data.find(b"\n", at)
        if counted < 0:
            return
        at = data.find(needle, counted)


def matches_by_line(pattern: re.Pattern[bytes], data: bytes) -> Iterator[tuple[int, str]]:
    """Index of the line and name of the group, for every match."""
    line, counted = 0, 0
    for match in pattern.finditer(data):
        line += data.count(b"\n", counted, match.start())
        counted = match.start()
        yield line, match.lastgroup or ""
