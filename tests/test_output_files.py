"""Output files: complete or not there, and never in the place of another file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ftpipe.errors import LocalStateError, UsageError
from ftpipe.output_files import check_outputs, is_same_file, open_output


def test_open_output_leaves_nothing_if_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), open_output(tmp_path / "new" / "a.txt") as file:
        file.write(b"half")
        raise BrokenPipeError(errno.EPIPE, "the reader of stdout has gone")
    assert list((tmp_path / "new").iterdir()) == []


def test_open_output_keeps_a_file_that_appears_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(UsageError, match="exists already"), open_output(path) as file:
        file.write(b"ours")
        path.write_text("theirs", encoding="utf-8")
    assert [one.read_text(encoding="utf-8") for one in tmp_path.iterdir()] == ["theirs"]


def test_open_output_writes_where_hard_links_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "not on this file system")

    monkeypatch.setattr(os, "link", refuse)
    with open_output(tmp_path / "a.txt") as file:
        file.write(b"ours")
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"ours"]


def test_open_output_replaces_what_a_link_leads_to(tmp_path: Path) -> None:
    """As a shell does; the link stays."""
    target, link = tmp_path / "a.txt", tmp_path / "link.txt"
    link.symlink_to(target)
    with pytest.raises(UsageError), open_output(link):
        pass
    with open_output(link, force=True) as file:
        file.write(b"ours")
    assert link.is_symlink() and target.read_bytes() == b"ours"


def test_open_output_names_the_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LocalStateError, match="cannot be written"), open_output(tmp_path / "file" / "a.txt"):
        pass


def test_open_output_passes_on_the_error_of_an_input(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.txt"), open_output(tmp_path / "a.txt"):
        (tmp_path / "gone.txt").read_bytes()


def test_is_same_file_follows_links_and_ignores_case(tmp_path: Path) -> None:
    one, other = tmp_path / "Café.txt", tmp_path / "other.txt"
    one.touch()
    other.symlink_to(one)
    os.link(one, tmp_path / "hard.txt")
    (tmp_path / "folder").symlink_to(tmp_path)
    assert is_same_file(one, other) and is_same_file(one, tmp_path / "hard.txt")
    assert is_same_file(one, tmp_path / "folder" / "cafe\u0301.TXT")
    assert not is_same_file(one, tmp_path / "Cafe.txt")
    assert not is_same_file(tmp_path / "a" / "x", tmp_path / "b" / "x")


def test_check_outputs_refuses_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder, and --html needs a file"):
        check_outputs([("--html", tmp_path)], force=True)
