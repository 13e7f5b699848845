r"""Reads a file as lines of bytes, split on ``\n`` only, in blocks of bounded size, whatever the file holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from ftpipe.errors import LocalStateError, UsageError

BLOCK_BYTES = 4 * 1024 * 1024
BOM = b"\xef\xbb\xbf"
MAX_LINE_BYTES = 256 * 1024 * 1024
"""Longest line that is read when a file is copied, split or converted; longer ones are skipped."""


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines, or the stand-in for one line that is too long to hold."""

    offset: int
    """Byte offset of the first line in the file."""
    data: bytes
    """The lines, the last one with or without its newline; empty for a line that is too long."""
    too_long: int = 0
    """Length in bytes of the line that was skipped; 0 for ordinary blocks."""
    ends_file: bool = False
    """True where the file's last line is in here without a newline."""


def open_binary(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        UsageError: It does not exist, or is not a regular file (folder, pipe, device).
        LocalStateError: It cannot be read.
    """
    if not path.exists():
        raise UsageError(f"There is no file {path}.", "Check the path; ftpipe reads JSONL files.")
    if not path.is_file():
        raise UsageError(f"{path} is not a regular file.", "Name a JSONL file; save a pipe's output to a file first.")
    try:
        return path.open("rb", buffering=0)
    except OSError as exc:
        raise LocalStateError(f"{path} cannot be read: {exc.strerror}.", "Check the file's permissions.") from exc


def read_blocks(
    path: Path, start: int = 0, end: int | None = None, *, max_line_bytes: int, block_bytes: int = BLOCK_BYTES
) -> Iterator[Block]:
    """Yield the lines that begin in ``[start, end)``, in blocks of about ``block_bytes``.

    Memory stays below ``block_bytes`` plus ``max_line_bytes``; a longer line is skipped and is a block of its own.

    Raises:
        LocalStateError: Reading failed half-way.
    """
    with open_binary(path) as file:
        try:
            size = file.seek(0, 2)
            stop = size if end is None else min(end, size)
            yield from _blocks(file, start, stop, size, max_line_bytes, block_bytes)
        except OSError as exc:
            raise LocalStateError(f"Reading {path} failed: {exc.strerror}.", "Check the disk, then try again.") from exc


def _blocks(file: BinaryIO, start: int, stop: int, size: int, max_line: int, block: int) -> Iterator[Block]:
    at = _skip_to_newline(file, start - 1) if start else 0
    file.seek(at)
    held = b""
    while at < stop:
        more = file.read(block)
        held += more
        whole = at + len(held) >= size or not more
        cut = len(held) if whole else held.rfind(b"\n") + 1
        if at + cut > stop:
            # The line that begins before ``stop`` is still ours, the next one is not.
            cut = held.find(b"\n", stop - at - 1) + 1 or (len(held) if whole else 0)
        if cut:
            yield Block(at, held[:cut], ends_file=whole and cut == len(held) and not held.endswith(b"\n"))
            at, held = at + cut, held[cut:]
            if whole and not held:
                return
        elif len(held) > max_line:
            after = _skip_to_newline(file, at + len(held))
            yield Block(at, b"", too_long=after - at)
            at, held = after, b""
            file.seek(at)
        elif not more:
            return


def _skip_to_newline(file: BinaryIO, at: int) -> int:
    """Offset just behind the next newline at or after ``at``; the file's end where there is none."""
    file.seek(at)
    while piece := file.read(1 << 20):
        found = piece.find(b"\n")
        if found >= 0:
            return at + found + 1
        at += len(piece)
    return at


def iter_valid_lines(path: Path) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
    """Yield (line number, bytes without the newline, record) of every line that holds an object."""
    number = 0
    for block in read_blocks(path, max_line_bytes=MAX_LINE_BYTES):
        raws = [b""] if block.too_long else block.data.removesuffix(b"\n").split(b"\n")
        for raw in raws:
            number += 1
            clean = (raw.removeprefix(BOM) if number == 1 else raw).rstrip(b"\r")
            try:
                record = orjson.loads(clean)
            except orjson.JSONDecodeError:
                continue
            if type(record) is dict:
                yield number, clean, record
