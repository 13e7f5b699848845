"""Finds lines in which an object may hold a key twice: the parser keeps the last one and says nothing."""

from __future__ import annotations

import re
from collections.abc import Container

from ftpipe.dataset.json_line import Json

_SPACED_COLON = re.compile(rb'"[ \t\r]+:')


def lines_with_possible_duplicate_keys(
    data: bytes, raws: list[bytes], keys: list[int], parsed: list[int], odd: Container[int] | None
) -> set[int]:
    """Indices of the lines of a block in which a key may stand twice.

    Args:
        data: The block.
        raws: Its lines.
        keys: Members of the value of each line.
        parsed: Indices of the lines that have a value.
        odd: Indices of the lines with a blank or a backslash at a quote and a colon, where that is known.
    """
    if odd is not None:
        return {
            i
            for i in parsed
            if (may_have_duplicate_keys(raws[i], keys[i]) if i in odd else raws[i].count(b'":') != keys[i])
        }
    if len(parsed) == len(raws) and not may_have_duplicate_keys(data, sum(keys)):
        return set()
    return {i for i in parsed if may_have_duplicate_keys(raws[i], keys[i])}


def count_keys(value: Json) -> int:
    """Number of object members inside a JSON value, at any depth."""
    total = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if type(item) is dict:
            total += len(item)
            waiting += [inner for inner in item.values() if type(inner) is dict or type(inner) is list]
        elif type(item) is list:
            waiting += [inner for inner in item if type(inner) is dict or type(inner) is list]
    return total


def may_have_duplicate_keys(raw: bytes, keys: int) -> bool:
    r"""True unless it is certain that the parser dropped no member of a line, or of many of them.

    Every member writes ``":`` once, with an even number of backslashes before the quote; so does a text that begins
    with a colon. Where that stands exactly ``keys`` times, with no blank before a colon, there is no other member.
    """
    members, needle, sign = raw.count(b'":'), b'\\":', -1
    if members != keys:
        while found := raw.count(needle):
            members, needle, sign = members + sign * found, b"\\" + needle, -sign
    return members != keys or any(_is_outside(raw, match.start()) for match in _SPACED_COLON.finditer(raw))


def _is_outside(raw: bytes, quote: int) -> bool:
    """True for a quote that no backslash escapes."""
    before = quote
    while before and raw[before - 1] == 0x5C:
        before -= 1
    return (quote - before) % 2 == 0
