"""The data folder's marker: a folder of someone else is left alone, and links are not followed."""

from __future__ import annotations

import hashlib
import stat
import threading
from pathlib import Path

import pytest

from ftpipe.errors import LocalStateError
from ftpipe.server.http import serve
from ftpipe.server.settings import ServeSettings
from ftpipe.server.storage.data_dir import DataDirectory


def snapshot(folder: Path) -> dict[str, str]:
    """Every path below a folder, with its content or the target of a link."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in folder.rglob("*")
    }


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Someone's folder that has the names of the layout."""
    folder = tmp_path / "project"
    for name in ("files", "jobs/1", "uploads", "incoming"):
        (folder / name).mkdir(parents=True)
        (folder / name / "thesis.tex").write_text("mine", encoding="utf-8")
    return folder


def test_serve_refuses_a_folder_of_someone_else(foreign: Path) -> None:
    """Nothing is deleted, moved, written or changed; the error names folder, content and next step."""
    before, mode = snapshot(foreign), foreign.stat().st_mode
    with pytest.raises(LocalStateError, match=r"not made by `ftpipe serve`: it has 'files'") as refused:
        serve(ServeSettings(data_dir=foreign, port=0))
    assert str(foreign) in refused.value.message
    assert "--data-dir" in refused.value.hint
    assert (snapshot(foreign), foreign.stat().st_mode) == (before, mode)


def test_serve_refuses_a_folder_without_its_marker(tmp_path: Path) -> None:
    """A data folder whose marker was lost; with the marker put back it is used again."""
    folder = DataDirectory(tmp_path / "data")
    folder.prepare()
    folder.file("file-1").write_bytes(b"x")
    marker = folder.marker.read_bytes()
    folder.marker.unlink()
    with pytest.raises(LocalStateError, match=r"no ftpipe-data\.json"):
        folder.prepare()
    folder.marker.write_bytes(marker)
    folder.prepare()
    assert folder.file("file-1").read_bytes() == b"x"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": "other/1"}', '{"schema": "ftpipe.data/2"}'])
def test_data_dir_refuses_a_marker_that_it_does_not_know(content: str, tmp_path: Path) -> None:
    folder = DataDirectory(tmp_path / "data")
    folder.prepare()
    folder.marker.write_text(content, encoding="utf-8")
    with pytest.raises(LocalStateError, match=r"marker|another version"):
        folder.prepare()
    assert folder.marker.read_text(encoding="utf-8") == content


@pytest.mark.parametrize(
    "name", ["files", "jobs", "uploads", "incoming", "lost+found", "server.db", "server.log", "ftpipe-data.json"]
)
def test_data_dir_refuses_a_link_in_its_layout(name: str, foreign: Path, tmp_path: Path) -> None:
    """What the link leads to stays as it is."""
    folder = DataDirectory(tmp_path / "data")
    folder.prepare()
    path = folder.root / name
    target = foreign / "files" if name in ("files", "jobs", "uploads", "incoming", "lost+found") else foreign / "x"
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    before = snapshot(foreign)
    with pytest.raises(LocalStateError, match=r"symbolic link|not a marker"):
        serve(ServeSettings(data_dir=folder.root, port=0))
    assert snapshot(foreign) == before


@pytest.mark.parametrize("name", ["files/file-1", "jobs/ftjob-1", "jobs/ftjob-2/checkpoints", "uploads/upload_1"])
def test_data_dir_refuses_a_link_below_its_layout(name: str, foreign: Path, tmp_path: Path) -> None:
    folder = DataDirectory(tmp_path / "data")
    folder.prepare()
    (folder.root / name).parent.mkdir(exist_ok=True)
    (folder.root / name).symlink_to(foreign / "jobs")
    before = snapshot(foreign)
    with pytest.raises(LocalStateError, match="symbolic link"):
        folder.prepare()
    assert snapshot(foreign) == before


def test_data_dir_is_claimed_once_by_parallel_starts(tmp_path: Path) -> None:
    """All of sixteen starts on a new folder succeed, with one marker."""
    folder = DataDirectory(tmp_path / "data")
    errors: list[Exception] = []
    markers: set[bytes] = set()
    barrier = threading.Barrier(16)

    def claim() -> None:
        barrier.wait(60)
        try:
            folder.prepare()
            markers.add(folder.marker.read_bytes())
        except Exception as exc:  # noqa: BLE001 - shown below
            errors.append(exc)

    threads = [threading.Thread(target=claim) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (errors, len(markers)) == ([], 1)
    assert [path.name for path in folder.root.glob(".*")] == []


def test_data_dir_takes_access_from_other_users(tmp_path: Path) -> None:
    folder = DataDirectory(tmp_path / "data")
    folder.root.mkdir()
    folder.root.chmod(0o777)
    folder.prepare()
    (folder.root / "files").chmod(0o755)
    folder.prepare()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder.root, *folder.root.glob("*/"))} == {0o700}


def test_data_dir_may_be_the_top_of_a_disk(tmp_path: Path) -> None:
    """A new file system has a folder lost+found."""
    folder = DataDirectory(tmp_path / "data")
    (folder.root / "lost+found").mkdir(parents=True)
    folder.prepare()
    assert folder.marker.is_file()
