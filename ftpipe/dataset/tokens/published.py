"""The published rank file of an encoding, for tokenizers that read nothing else: written once and kept."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftpipe.dataset.tokens.ranks import PUBLISHED_SHA256, RankTable
from ftpipe.paths import home


@contextmanager
def cached_rank_file(encoding: str) -> Iterator[Path]:
    """The path of the file, kept in the user's folder; where that cannot be written, of one that lives for a moment.

    Args:
        encoding: ``o200k_base`` or ``cl100k_base``.
    """
    kept = home() / "tokens" / f"{encoding}.tiktoken"
    if _is_whole(kept, encoding) or _write(kept, RankTable(encoding).published()):
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="ftpipe-") as folder:
        passing = Path(folder) / kept.name
        passing.write_bytes(RankTable(encoding).published())
        yield passing


def _is_whole(path: Path, encoding: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == PUBLISHED_SHA256[encoding]
    except OSError:
        return False


def _write(path: Path, data: bytes) -> bool:
    """Write a file so that nobody sees half of it; False where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=path.parent) as folder:
            new = Path(folder) / path.name
            new.write_bytes(data)
            new.replace(path)
    except OSError:
        return False
    return True
