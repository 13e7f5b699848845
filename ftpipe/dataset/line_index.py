"""Index a file by the byte offsets of its lines: any line of millions is read at once, and memory stays small."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ftpipe.dataset.reader import BLOCK_BYTES, open_binary
from ftpipe.errors import LocalStateError, UsageError

CHUNK_BYTES = 256 * 1024
"""For each chunk of this size the index has one number: 8 kB for a file of 250 MB."""
MAX_SHOWN_LINE_BYTES = 1024 * 1024
"""Bytes of a line that are read for a page; of a longer one only its beginning."""


class IndexedLine(NamedTuple):
    """One line of a file."""

    number: int
    """1-based."""
    raw: bytes
    """Without its newline; the beginning of a line that is too long to show."""
    is_cut: bool = False
    """Whether there is more of it."""


class FileStamp(NamedTuple):
    """What changes when a file is written; the same stamp stands for the same content."""

    size: int
    modified_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """The stamp of a file as it is now.

        Raises:
            UsageError: It does not exist any more.
        """
        try:
            status = path.stat()
        except OSError as exc:
            raise UsageError(f"{path} does not exist any more", "choose another file") from exc
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True, slots=True)
class LineIndex:
    """Where the lines of a file are: the newlines before each chunk of it; one chunk is read to find a line."""

    path: Path
    stamp: FileStamp
    lines: int
    """Lines of the file, blank ones too; numbers are those of the checks."""
    newlines_before: array[int]
    """For each chunk the newlines before it."""

    @classmethod
    def build(cls, path: Path) -> LineIndex:
        """Read a file once and count its lines.

        Raises:
            UsageError: There is no such regular file.
            LocalStateError: It cannot be read.
        """
        stamp = FileStamp.of(path)
        counts, newlines, last = array("Q"), 0, b"\n"
        with open_binary(path) as file:
            try:
                while block := file.read(CHUNK_BYTES):
                    counts.append(newlines)
                    newlines += block.count(b"\n")
                    last = block[-1:]
            except OSError as exc:
                raise LocalStateError(
                    f"Reading {path} failed: {exc.strerror}.", "Check the disk, then try again."
                ) from exc
        return cls(path, stamp, newlines + (last != b"\n"), counts)

    @property
    def is_current(self) -> bool:
        """Whether the file is still as it was indexed."""
        try:
            return FileStamp.of(self.path) == self.stamp
        except UsageError:
            return False

    def read(self, first: int, count: int, *, max_line_bytes: int = MAX_SHOWN_LINE_BYTES) -> list[IndexedLine]:
        """Up to ``count`` lines from line ``first`` on; fewer at the end of the file."""
        if not 1 <= first <= self.lines:
            return []
        lines = []
        with self.path.open("rb") as file:
            file.seek(self.offset_of(first))
            for number in range(first, min(first + count, self.lines + 1)):
                raw, is_cut = _read_line(file, max_line_bytes)
                lines.append(IndexedLine(number, raw, is_cut))
        return lines

    def offset_of(self, line: int) -> int:
        """Byte offset at which a line begins."""
        if line <= 1:
            return 0
        chunk = bisect_left(self.newlines_before, line - 1) - 1
        with self.path.open("rb") as file:
            file.seek(chunk * CHUNK_BYTES)
            data = file.read(CHUNK_BYTES)
        at = -1
        for _ in range(line - 1 - self.newlines_before[chunk]):
            at = data.find(b"\n", at + 1)
        return chunk * CHUNK_BYTES + at + 1


def _read_line(file: BinaryIO, limit: int) -> tuple[bytes, bool]:
    """The next line without its newline, and whether there is more of it than the limit; the rest is skipped."""
    raw = file.readline(limit + 1)
    is_cut = len(raw) > limit and not raw.endswith(b"\n")
    rest = raw
    while rest and not rest.endswith(b"\n"):
        rest = file.readline(BLOCK_BYTES)
    return (raw[:limit] if is_cut else raw.removesuffix(b"\n")), is_cut
