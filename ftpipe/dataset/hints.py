"""Finds, for a whole block of lines at once, which lines a content rule must look at: byte searches instead of patterns per text.

A mark never decides anything; it only says that the exact rule has to look. Lines that spell ASCII characters as ``\\u00XX`` escapes get every mark,
because the bytes that a search looks for may hide there.
"""

from __future__ import annotations

from bisect import bisect_right

NEEDLES: dict[str, tuple[bytes, ...]] = {
    "special": (b"<|",),
}
_ESCAPED_ASCII = tuple(b"\\u00%d" % digit for digit in range(2, 8))
EVERY = "*"


def find_marks(data: bytes, starts: list[int]) -> dict[int, set[str]]:
    """Index of a line in the block → marks of that line.

    Args:
        data: The block.
        starts: Byte offset of each line in the block, ascending.
    """
    marked: dict[int, set[str]] = {}
    for mark, needles in ((EVERY, _ESCAPED_ASCII), *NEEDLES.items()):
        for needle in needles:
            at = data.find(needle)
            while at >= 0:
                index = bisect_right(starts, at) - 1
                marked.setdefault(index, set()).add(mark)
                if index + 1 >= len(starts):
                    break
                at = data.find(needle, starts[index + 1])
    return marked
