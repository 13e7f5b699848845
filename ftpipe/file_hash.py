"""SHA-256 of a file, read in chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from io import BufferedIOBase, RawIOBase
from pathlib import Path

CHUNK_BYTES = 1 << 20


def sha256_of_stream(stream: BufferedIOBase | RawIOBase, on_chunk: Callable[[bytes], object] | None = None) -> str:
    """SHA-256, in hex, of everything that is left to read.

    Args:
        stream: A file that is open for reading bytes.
        on_chunk: Called with every chunk, for example to copy it.
    """
    if on_chunk is None:
        return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
        on_chunk(chunk)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """SHA-256, in hex, of the bytes of a file.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return sha256_of_stream(file)
