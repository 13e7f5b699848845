"""SHA-256 of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ftpipe.file_hash import CHUNK_BYTES, sha256_of_file, sha256_of_stream


def test_file_hash_equals_hashlib(tmp_path: Path) -> None:
    content = b"0123456789" * (CHUNK_BYTES // 4)
    path = tmp_path / "file"
    path.write_bytes(content)
    chunks: list[bytes] = []
    with path.open("rb") as file:
        copied = sha256_of_stream(file, chunks.append)
    assert sha256_of_file(path) == copied == hashlib.sha256(content).hexdigest()
    assert b"".join(chunks) == content and len(chunks) == 3
