"""The rank file that some tokenizers read is written once, kept, checked each time, and never needed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ftpipe.paths import home
from ftpipe.tokenization import bpe_ranks
from ftpipe.tokenization.bpe_ranks import PUBLISHED_SHA256, cached_rank_file

ENCODING = "cl100k_base"


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_rank_file_is_written_once() -> None:
    """In the user's folder, with the digest that tiktoken names; the second time it is only read."""
    with cached_rank_file(ENCODING) as path:
        assert path == home() / "tokens" / f"{ENCODING}.tiktoken"
        assert digest(path) == PUBLISHED_SHA256[ENCODING]
        made = path.stat().st_mtime_ns
    with cached_rank_file(ENCODING) as path:
        assert path.stat().st_mtime_ns == made
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_rank_file_is_rewritten_when_damaged() -> None:
    """Half of it, as a full disk leaves it, would give wrong counts."""
    with cached_rank_file(ENCODING) as path:
        whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with cached_rank_file(ENCODING) as path:
        assert digest(path) == PUBLISHED_SHA256[ENCODING]


def test_rank_file_is_temporary_in_read_only_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file then lives as long as it is needed."""
    blocked = tmp_path / "file"
    blocked.write_text("no folder", encoding="utf-8")
    monkeypatch.setattr(bpe_ranks, "home", lambda: blocked)
    with cached_rank_file(ENCODING) as path:
        assert digest(path) == PUBLISHED_SHA256[ENCODING]
        assert blocked not in path.parents
    assert not path.exists()
