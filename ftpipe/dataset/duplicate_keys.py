"""Finds lines in which an object may have a key twice: the strict parser silently keeps the last one."""

from __future__ import annotations

import re
from collections.abc import Container

from ftpipe.dataset.json_line import Json

_SPACED_COLON = re.compile(rb'"[ \t\r]+:')


def lines_with_possible_duplicate_keys(
    data: bytes, raws: list[bytes], key_counts: list[int], parsed: list[int], unusual: Container[int] | None
) -> set[int]:
    """Indices of the lines of a block in which an object may have a key twice.

    Args:
        data: The block.
        raws: Its lines.
        key_counts: Number of members in the value of each line.
        parsed: Indices of the lines that have a value.
        unusual: Indices of the lines with whitespace or a backslash between a quote and a colon, if that is known.
    """
    if unusual is not None:
        return {
            i
            for i in parsed
            if (
                may_have_duplicate_keys(raws[i], key_counts[i])
                if i in unusual
                else raws[i].count(b'":') != key_counts[i]
            )
        }
    if len(parsed) == len(raws) and not may_have_duplicate_keys(data, sum(key_counts)):
        return set()
    return {i for i in parsed if may_have_duplicate_keys(raws[i], key_counts[i])}


def count_keys(value: Json) -> int:
    """Number of object members inside a JSON value, at any depth."""
    total = 0
    stack = [value]
    while stack:
        item = stack.pop()
        if type(item) is dict:
            total += len(item)
            stack += [inner for inner in item.values() if type(inner) is dict or type(inner) is list]
        elif type(item) is list:
            stack += [inner for inner in item if type(inner) is dict or type(inner) is list]
    return total


def may_have_duplicate_keys(raw: bytes, keys: int) -> bool:
    r"""True unless it is certain that the parser dropped no member of a line, or of many of them.

    Every member is written with ``":`` once, with an even number of backslashes before the quote; so is a text that
    begins with a colon. If that occurs exactly ``keys`` times and no whitespace precedes a colon, there is no other
    member.
    """
    members, needle, sign = raw.count(b'":'), b'\\":', -1
    if members != keys:
        while escaped := raw.count(needle):
            members, needle, sign = members + sign * escaped, b"\\" + needle, -sign
    return members != keys or any(_is_outside(raw, match.start()) for match in _SPACED_COLON.finditer(raw))


def _is_outside(raw: bytes, quote: int) -> bool:
    """True if the quote is not escaped."""
    before = quote
    while before and raw[before - 1] == 0x5C:
        before -= 1
    return (quote - before) % 2 == 0
