"""Describes a dataset file: digest, size, number of records and format."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from ftpipe.dataset.reader import MAX_LINE_BYTES, open_binary, read_blocks
from ftpipe.dataset.sniffer import sniff
from ftpipe.records import Dataset, DatasetFormat


def sha256_of(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file's bytes.

    Args:
        path: The file.
        on_bytes: Told the bytes read so far.
    """
    digest = hashlib.sha256()
    done = 0
    with open_binary(path) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            done += len(piece)
            if on_bytes:
                on_bytes(done)
    return digest.hexdigest()


def describe_dataset(path: Path) -> Dataset:
    """The dataset record of a file."""
    seen = sniff(path)
    examples = 0
    for block in read_blocks(path, max_line_bytes=MAX_LINE_BYTES):
        lines = block.data.split(b"\n")
        examples += sum(1 for raw in lines if raw and not raw.isspace()) + bool(block.too_long)
    return Dataset(
        path=path,
        sha256=sha256_of(path),
        bytes=seen.size,
        examples=examples if seen.layout == "lines" else 0,
        format=DatasetFormat(seen.format),
    )
