"""Everything that can be known about the data without asking anyone: reading, rules, tokens, prices, splits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftpipe.records import Dataset

__all__ = ["iter_records", "open_dataset", "read_records"]


def open_dataset(path: Path) -> Dataset:
    """Digest, size, number of records and format of a file.

    Raises:
        UsageError: There is no such regular file.
        LocalStateError: It cannot be read.
    """
    from ftpipe.dataset.identity import describe_dataset

    return describe_dataset(Path(path))


def iter_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (1-based line, record) of every line that holds an object; others are passed over. Memory is bounded.

    Raises:
        UsageError: There is no such regular file.
        LocalStateError: It cannot be read.
    """
    from ftpipe.dataset.reader import iter_valid_lines

    for number, _, record in iter_valid_lines(Path(path)):
        yield number, record


def read_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (1-based line, record) of every line that is not blank. Memory is bounded.

    Raises:
        DatasetError: The file is in another format, or a line is not a record; the message names the line.
        UsageError: There is no such regular file.
        LocalStateError: It cannot be read.
    """
    from ftpipe.dataset.diagnosis import read_checked_lines

    for number, _, record in read_checked_lines(Path(path)):
        yield number, record
