"""Ids instead of paths, sanitized names, and no file that is overwritten."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from ftpipe.errors import UsageError
from ftpipe.ui.datasets import files as module
from ftpipe.ui.datasets.files import DatasetFiles, sanitize_name


@pytest.fixture
def files(own_home: Path) -> DatasetFiles:
    return DatasetFiles(own_home)


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("train.jsonl", "train.jsonl"),
        ("../../etc/passwd.jsonl", "passwd.jsonl"),
        ("C:\\data\\träin.JSONL", "träin.jsonl"),
        (".hidden.jsonl", "hidden.jsonl"),
        ("a b\u202ec\n.jsonl", "a-b-c.jsonl"),
        ("x" * 300 + ".jsonl", "x" * 74 + ".jsonl"),
        ("…….jsonl", "data.jsonl"),
        ("-rf.csv", "rf.csv"),
    ],
)
def test_sanitize_name_keeps_what_is_safe(name: str, clean: str) -> None:
    assert sanitize_name(name) == clean


@pytest.mark.parametrize("name", ["", "data", "data.exe", "data.jsonl/..", "jsonl", "a.jsonl\x00.py"])
def test_sanitize_name_refuses_what_is_no_dataset(name: str) -> None:
    with pytest.raises(UsageError):
        sanitize_name(name)


def test_received_file_never_replaces_another_one(files: DatasetFiles) -> None:
    first = files.receive("train.jsonl", io.BytesIO(b"{}\n"))
    again = files.receive("train.jsonl", io.BytesIO(b"{}\n"))
    other = files.receive("train.jsonl", io.BytesIO(b"[]\n"))
    assert first.path == again.path
    assert other.path.name == "train-2.jsonl"
    assert first.path.read_bytes() == b"{}\n"
    assert other.path.read_bytes() == b"[]\n"
    assert first.path.parent.name == "datasets"
    assert first.path.parent.parent.name == ".ftpipe"


def test_received_file_that_is_too_large_is_refused(files: DatasetFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UPLOAD_BYTES", 10)
    with pytest.raises(UsageError, match="larger than"):
        files.receive("train.jsonl", io.BytesIO(b"x" * 11))
    assert not files.own_folder.exists()


def test_only_listed_files_have_ids(files: DatasetFiles, own_home: Path) -> None:
    (own_home / "train.jsonl").write_text("{}\n", encoding="utf-8")
    (own_home / "secret.txt").write_text("secret", encoding="utf-8")
    (own_home / ".hidden").mkdir()
    (own_home / ".hidden" / "x.jsonl").write_text("{}\n", encoding="utf-8")
    (own_home / "link.jsonl").symlink_to("/etc/hostname")
    listed = files.all()
    assert [file.name for file in listed] == ["train.jsonl"]
    assert files.get(listed[0].id).path == own_home / "train.jsonl"
    for wrong in ("../secret.txt", str(own_home / "secret.txt"), "", "0" * 16):
        with pytest.raises(UsageError):
            files.get(wrong)


def test_deleted_file_is_not_shown(files: DatasetFiles, own_home: Path) -> None:
    path = own_home / "train.jsonl"
    path.write_text("{}\n", encoding="utf-8")
    file_id = files.all()[0].id
    path.unlink()
    with pytest.raises(UsageError, match="does not exist any more"):
        files.get(file_id)
