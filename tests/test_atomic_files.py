"""Files that are replaced in one step."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from ftpipe.atomic_files import link_or_copy, read_json, write_bytes, write_json


def test_write_json_replaces_content_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": "ü"}, indent=2)
    assert path.read_bytes() == '{\n  "a": "ü"\n}\n'.encode()
    assert read_json(path) == {"a": "ü"}
    assert list(tmp_path.iterdir()) == [path]


def test_write_json_refuses_nan_and_keeps_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}


def test_write_bytes_keeps_old_content_when_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_write_bytes_sets_mode(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"", mode=0o600)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [None, b"", b"[1]", b"{", b"\xff", b"[" * 100_000])
def test_read_json_is_none_without_a_readable_object(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    assert read_json(tmp_path / "a") is None


def test_link_or_copy_survives_deletion_of_source(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"1")
    target.write_bytes(b"old")
    link_or_copy(source, target)
    source.unlink()
    assert target.read_bytes() == b"1"


def test_write_bytes_spares_files_beside_it(tmp_path: Path) -> None:
    """Neither a file nor a link with a name that could be taken for a temporary one is written to or removed."""
    victim, planted = tmp_path / "victim", tmp_path / f".a.{os.getpid()}"
    victim.write_bytes(b"mine")
    planted.symlink_to(victim)
    write_bytes(tmp_path / "a", b"new")
    assert (victim.read_bytes(), planted.is_symlink(), (tmp_path / "a").read_bytes()) == (b"mine", True, b"new")
