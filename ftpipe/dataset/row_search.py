"""Find the rows of a large file that have a text or a label, a page at a time and in bounded time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from ftpipe.dataset.formats import message_lists, shape_of
from ftpipe.dataset.line_index import IndexedLine, LineIndex
from ftpipe.dataset.reader import BLOCK_BYTES, BOM, MAX_LINE_BYTES, read_blocks

SEARCH_SECONDS = 1.0
"""How long one request searches; the page offers to continue."""
_NOT_TEXT = frozenset({"role", "type", "id", "tool_call_id"})
"""Keys whose values nobody searches for."""


class RowMatches(NamedTuple):
    """A page of matching rows."""

    lines: list[IndexedLine]
    searched_to: int
    """The last line that was searched."""
    is_complete: bool
    """Whether the search reached the end of the rows."""


class TextQuery(NamedTuple):
    """What the texts of a row must have; empty for no condition."""

    text: str = ""
    """Somewhere in a message, a tool or a call; letters match without regard to case."""
    label: str = ""
    """The whole last answer."""

    @property
    def needles(self) -> list[bytes]:
        """Byte strings, in lower-case ASCII, one of which a line must have."""
        value = self.label or self.text
        variants = {value} if self.label else {value, value.lower(), value.upper(), value.title()}
        written = {json.dumps(one, ensure_ascii=escape)[1:-1] for one in variants for escape in (False, True)}
        return sorted({one.encode("utf-8", "surrogatepass").lower() for one in written})

    def matches(self, line: IndexedLine) -> bool:
        """Whether a row has what is searched for; a line that is not JSON is compared as text."""
        record = parse_row(line)
        if record is None:
            shown = line.raw.decode("utf-8", "replace")
            return not self.label and self.text.casefold() in shown.casefold()
        if self.label and label_of(record) != self.label:
            return False
        wanted = self.text.casefold()
        return not wanted or any(wanted in text.casefold() for text in texts_of(record))


def parse_row(line: IndexedLine) -> dict[str, Any] | None:
    """The record of a line; ``None`` if it is cut or is not a JSON object."""
    if line.is_cut:
        return None
    try:
        record = orjson.loads(line.raw.removeprefix(BOM))
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


def texts_of(record: dict[str, Any]) -> Iterator[str]:
    """Every text of a record that a person reads: contents, tools, calls, other fields; no key, no role and no id."""
    pending: list[Any] = [record]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            pending += [item for key, item in value.items() if key not in _NOT_TEXT]
        elif isinstance(value, list):
            pending += value


def label_of(record: dict[str, Any]) -> str:
    """The last answer of a chat record; empty if it has none."""
    lists = message_lists(record, "dpo" if shape_of(record) == "dpo" else "chat")
    messages = lists[0][1] if lists else None
    last = messages[-1] if isinstance(messages, list) and messages else None
    content = last.get("content") if isinstance(last, dict) and last.get("role") == "assistant" else None
    return content.strip() if isinstance(content, str) else ""


def find_rows(
    index: LineIndex,
    query: TextQuery,
    *,
    after: int = 0,
    limit: int = 100,
    seconds: float = SEARCH_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> RowMatches:
    """The next rows after a line that match.

    Args:
        index: The file.
        query: What to look for; an empty one matches every row.
        after: Line after which the search begins.
        limit: Rows at most.
        seconds: How long to search at most.
        clock: Monotonic seconds.
    """
    if not query.text and not query.label:
        lines = index.read(after + 1, limit)
        to = after + len(lines)
        return RowMatches(lines, to, to >= index.lines)
    return take_matching(
        _candidates(index, query, after), query, limit=limit, end=index.lines, seconds=seconds, clock=clock
    )


def take_matching(
    candidates: Iterable[IndexedLine | int],
    query: TextQuery,
    *,
    limit: int,
    end: int,
    seconds: float = SEARCH_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> RowMatches:
    """The first candidates that match.

    Args:
        candidates: Lines in the order in which they are shown; a number alone says how far the search has come.
        query: What they must have.
        limit: Rows at most.
        end: The line that a complete search has reached.
        seconds: How long to search at most.
        clock: Monotonic seconds.
    """
    stop_at, found, last = clock() + seconds, [], 0
    for line in candidates:
        last = line if isinstance(line, int) else line.number
        if isinstance(line, IndexedLine) and query.matches(line):
            found.append(line)
        if len(found) >= limit or clock() >= stop_at:
            return RowMatches(found, last, last >= end)
    return RowMatches(found, end, True)


def _candidates(index: LineIndex, query: TextQuery, after: int) -> Iterator[IndexedLine | int]:
    """Lines whose bytes may have the text; after each block the number of its last line."""
    needles = query.needles
    number, offset = after + 1, index.offset_of(after + 1)
    for block in read_blocks(index.path, offset, max_line_bytes=MAX_LINE_BYTES, block_bytes=BLOCK_BYTES):
        if block.too_long:
            number += 1
            continue
        lowered = block.data.lower()
        for at, line in _lines_with(lowered, needles):
            end = lowered.find(b"\n", at)
            start = lowered.rfind(b"\n", 0, at) + 1
            yield IndexedLine(number + line, block.data[start : len(block.data) if end < 0 else end])
        number += lowered.count(b"\n") + (not lowered.endswith(b"\n"))
        yield number - 1


def _lines_with(lowered: bytes, needles: list[bytes]) -> Iterator[tuple[int, int]]:
    """Position and index in the block of each line that has one of the needles, in order."""
    position = line = counted = 0
    following = {needle: 0 for needle in needles}
    while True:
        for needle, at in following.items():
            if 0 <= at <= position:
                following[needle] = lowered.find(needle, position)
        found = [at for at in following.values() if at >= 0]
        if not found:
            return
        at = min(found)
        line += lowered.count(b"\n", counted, at)
        counted = at
        yield at, line
        end = lowered.find(b"\n", at)
        if end < 0:
            return
        position = end + 1


def rows_from(index: LineIndex, numbers: Iterable[int]) -> Iterator[IndexedLine]:
    """The lines of some numbers; neighbours are read together."""
    cached: dict[int, IndexedLine] = {}
    for number in numbers:
        if number not in cached:
            cached = {line.number: line for line in index.read(number, 20)}
        if number in cached:
            yield cached[number]
