"""What a crash left in the data folder is found by what the database says, and nothing else is."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ftpipe.errors import LocalStateError
from ftpipe.server.storage.data_dir import DataDirectory
from ftpipe.server.storage.database import open_store
from ftpipe.server.storage.garbage import delete_garbage, find_garbage
from tests.server.conftest import create_job, wait_for


def names(root: Path) -> list[str]:
    """Paths of the garbage, relative to the data folder."""
    return [one.path.relative_to(root).as_posix() for one in find_garbage(root)]


def wait_until_trained(job_directory: Path) -> None:
    """Wait until the trainer has removed what earlier trainers left, which is later than the status ``running``."""
    events = job_directory / "events.ndjson"
    deadline = time.monotonic() + 60
    while not events.exists() or "Fine-tuning job started" not in events.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The data folder of the servers here."""
    return tmp_path / "data"


@pytest.mark.slow
def test_garbage_is_what_ended_jobs_and_deleted_models_left(client: TestClient, root: Path) -> None:
    """Models that answer, running jobs, files of clients and lost+found are none."""
    done = wait_for(client, create_job(client)["id"], "succeeded")
    dead = wait_for(client, create_job(client)["id"], "succeeded")
    running = create_job(client, extras={"fake_seconds": 60})
    wait_until_trained(root / "jobs" / running["id"])
    (root / "lost+found" / "2026").mkdir(parents=True)
    (root / "files" / "file-foreign").write_bytes(b"x")
    assert names(root) == []

    shutil.copytree(root / "jobs" / dead["id"] / "checkpoints", root.parent / "saved")
    client.delete(f"/v1/models/{dead['fine_tuned_model']}")
    shutil.copytree(root.parent / "saved", root / "jobs" / dead["id"] / "checkpoints")
    half = root / "jobs" / done["id"] / "checkpoints" / ".step-9-xyz"
    half.mkdir()
    (half / "adapter.bin").write_bytes(b"x" * 10)
    (root / "jobs" / done["id"] / "training.jsonl").write_text("{}")
    (root / "jobs" / running["id"] / "checkpoints" / ".step-9-xyz").mkdir(parents=True)
    expected = {
        f"jobs/{dead['id']}/checkpoints",
        f"jobs/{done['id']}/checkpoints/.step-9-xyz",
        f"jobs/{done['id']}/training.jsonl",
    }
    assert set(names(root)) == expected

    delete_garbage(root, find_garbage(root))
    assert names(root) == []
    assert not (root / "jobs" / dead["id"] / "checkpoints").exists()
    assert (root / "jobs" / running["id"] / "checkpoints" / ".step-9-xyz").exists()
    assert client.get(f"/v1/models/{done['fine_tuned_model']}").status_code == 200
    body = {"model": done["fine_tuned_model"], "messages": [{"role": "user", "content": "hi"}]}
    assert client.post("/v1/chat/completions", json=body).status_code == 200


def test_garbage_of_folder_that_is_not_the_servers_is_none(root: Path) -> None:
    """Nor of one without a database, whatever is in it."""
    (root / "jobs" / "ftjob-1" / "checkpoints").mkdir(parents=True)
    assert find_garbage(root) == []
    shutil.rmtree(root)
    DataDirectory(root).prepare()
    (root / "jobs" / "ftjob-1").mkdir()
    assert find_garbage(root) == []


def test_search_for_garbage_changes_nothing(root: Path) -> None:
    """SQLite makes files beside a database even for some that only read it."""
    DataDirectory(root).prepare()
    open_store(root / "server.db").close()
    before = sorted(root.iterdir())
    assert find_garbage(root) == []
    assert sorted(root.iterdir()) == before


def test_garbage_refuses_links(root: Path, tmp_path: Path) -> None:
    """What they lead to is somebody else's."""
    DataDirectory(root).prepare()
    open_store(root / "server.db").close()
    (root / "jobs" / "ftjob-1").symlink_to(tmp_path)
    with pytest.raises(LocalStateError, match="symbolic link"):
        find_garbage(root)
