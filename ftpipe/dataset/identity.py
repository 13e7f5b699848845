"""Describes a dataset file: digest, size, number of records and format."""

from __future__ import annotations

from pathlib import Path

from ftpipe.dataset.reader import MAX_LINE_BYTES, open_binary, read_blocks
from ftpipe.dataset.sniffer import sniff
from ftpipe.file_hash import sha256_of_stream
from ftpipe.records import Dataset, DatasetFormat


def sha256_of_dataset(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        UsageError: There is no such regular file.
        LocalStateError: It cannot be read.
    """
    with open_binary(path) as file:
        return sha256_of_stream(file)


def describe_dataset(path: Path) -> Dataset:
    """The dataset record of a file."""
    sniffed = sniff(path)
    examples = 0
    for block in read_blocks(path, max_line_bytes=MAX_LINE_BYTES):
        lines = block.data.split(b"\n")
        examples += sum(1 for raw in lines if raw and not raw.isspace()) + bool(block.too_long)
    return Dataset(
        path=path,
        sha256=sha256_of_dataset(path),
        bytes=sniffed.size,
        examples=examples if sniffed.layout == "lines" else 0,
        format=DatasetFormat(sniffed.format),
    )
