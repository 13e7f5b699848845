r"""Reads any file as lines of bytes, split on ``\n`` only, in blocks of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import orjson

from ftpipe.errors import LocalStateError, UsageError

BLOCK_BYTES = 4 * 1024 * 1024
BOM = b"\xef\xbb\xbf"
MAX_LINE_BYTES = 256 * 1024 * 1024
"""Longest line that is read when a file is copied, split or converted; longer ones are skipped."""


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines, or a placeholder for one line that is too long to read."""

    offset: int
    """Byte offset of the first line in the file."""
    data: bytes
    """The lines, the last one with or without its newline; empty for a line that is too long."""
    too_long: int = 0
    """Length in bytes of the line that was skipped; 0 for ordinary blocks."""
    ends_file: bool = False
    """True if the block contains the last line of the file and that line has no newline."""


def open_binary(path: Path) -> FileIO:
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

    Memory stays below ``block_bytes`` plus ``max_line_bytes``; a longer line is skipped and becomes a separate block.

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


def _blocks(file: FileIO, start: int, stop: int, size: int, max_line: int, block: int) -> Iterator[Block]:
    at = _skip_to_newline(file, start - 1) if start else 0
    file.seek(at)
    buffer = b""
    while at < stop:
        data = file.read(block)
        buffer += data
        is_last = at + len(buffer) >= size or not data
        cut = len(buffer) if is_last else buffer.rfind(b"\n") + 1
        if at + cut > stop:
            # The line that begins before ``stop`` belongs to this range, the next one does not.
            cut = buffer.find(b"\n", stop - at - 1) + 1 or (len(buffer) if is_last else 0)
        if cut:
            yield Block(at, buffer[:cut], ends_file=is_last and cut == len(buffer) and not buffer.endswith(b"\n"))
            at, buffer = at + cut, buffer[cut:]
            if is_last and not buffer:
                return
        elif len(buffer) > max_line:
            after = _skip_to_newline(file, at + len(buffer))
            yield Block(at, b"", too_long=after - at)
            at, buffer = after, b""
            file.seek(at)
        elif not data:
            return


def _skip_to_newline(file: FileIO, at: int) -> int:
    """Offset after the next newline at or after ``at``; the end of the file if there is none."""
    file.seek(at)
    while piece := file.read(1 << 20):
        newline = piece.find(b"\n")
        if newline >= 0:
            return at + newline + 1
        at += len(piece)
    return at


def read_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Yield (line number, bytes without the newline) of every line; ``None`` instead of a line that is too long."""
    number = 0
    for block in read_blocks(path, max_line_bytes=MAX_LINE_BYTES):
        lines = (None,) if block.too_long else block.data.removesuffix(b"\n").split(b"\n")
        for line in lines:
            number += 1
            yield number, line


def iter_valid_lines(path: Path) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
    """Yield (line number, bytes without the newline, record) of every line that holds an object."""
    for number, raw in read_lines(path):
        if raw is None:
            continue
        clean = (raw.removeprefix(BOM) if number == 1 else raw).rstrip(b"\r")
        try:
            record = orjson.loads(clean)
        except orjson.JSONDecodeError:
            continue
        if type(record) is dict:
            yield number, clean, record
