"""The data folder and a database that is new, damaged or old: nothing is deleted, and finished models answer again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ftpipe.errors import LocalStateError
from ftpipe.server.http import create_app
from ftpipe.server.services import build_context
from ftpipe.server.settings import ServeSettings
from ftpipe.server.storage import open_store
from ftpipe.server.storage.cleanup import delete_after_commit
from ftpipe.server.storage.data_dir import DataDirectory
from ftpipe.server.storage.lost_and_found import count_items
from tests.server.conftest import LINES, create_job, upload, wait_for
from tests.server.fakes import FAKE_TRAINER, FakeBaseModels, FakeEngine, FakeValidation

KEYS = {"anna": "anna-0123456789-0123456789", "bert": "bert-0123456789-0123456789"}
TABLES = ("server.db", "server.db-wal", "server.db-shm")
SERVER_FILES = {*TABLES, "server.log", "server.lock", "server.json", "ftpipe-data.json"}


@contextmanager
def running(data_dir: Path) -> Iterator[dict[str, TestClient]]:
    """A server on a folder, with a client for each owner."""
    keys = data_dir.parent / "keys"
    keys.write_text("".join(f"{owner}:{key}\n" for owner, key in KEYS.items()), encoding="utf-8")
    keys.chmod(0o600)
    settings = ServeSettings(data_dir=data_dir, api_key_file=keys, trainer_command=FAKE_TRAINER, poll_interval=0.02)
    context = build_context(
        settings, engine=FakeEngine(), base_models=FakeBaseModels(), start_validation=FakeValidation
    )
    with TestClient(create_app(context), base_url="http://127.0.0.1", raise_server_exceptions=False) as first:
        clients = {owner: TestClient(first.app, base_url="http://127.0.0.1") for owner in KEYS}
        for owner, client in clients.items():
            client.headers["authorization"] = f"Bearer {KEYS[owner]}"
        yield clients


@dataclass(frozen=True)
class Used:
    """A data folder after some work.

    Attributes:
        folder: It was stopped cleanly.
        live: The database files while the server ran: a write-ahead log that is not merged.
        old: A copy of the database from before the first job was created.
        queued: A copy of the database from when all jobs were waiting.
        models: Owner → names of the finished models.
        unfinished: Id of anna's paused job.
    """

    folder: Path
    live: Path
    old: Path
    queued: Path
    models: dict[str, list[str]]
    unfinished: str


def backup(source: Path, target: Path) -> None:
    with sqlite3.connect(source) as old, sqlite3.connect(target) as new:
        old.backup(new)
    old.close()
    new.close()


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Used:
    """Two owners with three finished models, a paused job, an upload in parts and some files."""
    root = tmp_path_factory.mktemp("used")
    folder, live = root / "data", root / "live"
    with running(folder) as clients:
        anna, bert = clients["anna"], clients["bert"]
        upload(anna)
        backup(folder / "server.db", root / "old.db")
        jobs = [create_job(client) for client in (anna, anna, bert)]
        backup(folder / "server.db", root / "queued.db")
        with sqlite3.connect(root / "queued.db") as connection:
            connection.execute("UPDATE jobs SET status = 'queued', has_trainer = 0, desired_state = 'run'")
        connection.close()
        done = [wait_for(c, job["id"], "succeeded") for c, job in zip((anna, anna, bert), jobs, strict=True)]
        slow = create_job(anna, extras={"fake_steps": 500, "fake_seconds": 0.02})
        wait_for(anna, slow["id"], "running")
        anna.post(f"/v1/fine_tuning/jobs/{slow['id']}/pause")
        wait_for(anna, slow["id"], "paused")
        body = {"filename": "a.jsonl", "purpose": "fine-tune", "bytes": 10**6, "mime_type": "text/jsonl"}
        pending = anna.post("/v1/uploads", json=body).json()["id"]
        assert anna.post(f"/v1/uploads/{pending}/parts", files={"data": ("x", LINES)}).status_code == 200
        live.mkdir()
        for name in TABLES:
            shutil.copyfile(folder / name, live / name)
    names = [job["fine_tuned_model"] for job in done]
    return Used(folder, live, root / "old.db", root / "queued.db", {"anna": names[:2], "bert": names[2:]}, slow["id"])


def contents(folder: Path) -> Counter[str]:
    """How often each content is in a folder; the server's own files aside."""
    return Counter(
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in SERVER_FILES
    )


def empty(folder: Path, _: Used) -> None:
    (folder / "server.db").write_bytes(b"")


def truncated(folder: Path, _: Used) -> None:
    content = (folder / "server.db").read_bytes()
    (folder / "server.db").write_bytes(content[: len(content) // 2 + 100])


def noise(folder: Path, _: Used) -> None:
    (folder / "server.db").write_bytes(hashlib.shake_256(b"noise").digest(100_000))


def page_overwritten(folder: Path, _: Used) -> None:
    """The header is whole, so SQLite opens it."""
    content = bytearray((folder / "server.db").read_bytes())
    content[4096 : 4096 * 12] = hashlib.shake_256(b"page").digest(4096 * 11)
    (folder / "server.db").write_bytes(content)


def old_copy(folder: Path, used: Used) -> None:
    shutil.copyfile(used.old, folder / "server.db")


def copy_while_jobs_waited(folder: Path, used: Used) -> None:
    shutil.copyfile(used.queued, folder / "server.db")


def missing_wal(folder: Path, used: Used) -> None:
    shutil.copyfile(used.live / "server.db", folder / "server.db")


def wal_of_an_empty_database(folder: Path, used: Used) -> None:
    (folder / "server.db").write_bytes(b"")
    shutil.copyfile(used.live / "server.db-wal", folder / "server.db-wal")


def wal_of_another_time(folder: Path, used: Used) -> None:
    shutil.copyfile(used.old, folder / "server.db")
    shutil.copyfile(used.live / "server.db-wal", folder / "server.db-wal")


def foreign_database(folder: Path, _: Used) -> None:
    (folder / "server.db").unlink()
    connection = sqlite3.connect(folder / "server.db")
    connection.execute("CREATE TABLE jobs (customer TEXT)")
    connection.execute("INSERT INTO jobs VALUES ('precious')")
    connection.execute("PRAGMA user_version=1")
    connection.commit()
    connection.close()


def database_of_another_folder(folder: Path, _: Used) -> None:
    (folder / "server.db").unlink()
    open_store(folder / "server.db").close()


def tables_missing(folder: Path, _: Used) -> None:
    connection = sqlite3.connect(folder / "server.db")
    connection.execute("DROP TABLE checkpoints")
    connection.commit()
    connection.close()


def deleted(folder: Path, _: Used) -> None:
    (folder / "server.db").unlink()


def renamed(folder: Path, _: Used) -> None:
    (folder / "server.db").rename(folder / "server.db.moved-aside")


def folder_in_its_place(folder: Path, _: Used) -> None:
    (folder / "server.db").unlink()
    (folder / "server.db").mkdir()
    (folder / "server.db" / "note.txt").write_text("precious", encoding="utf-8")


def newer_version(folder: Path, _: Used) -> None:
    with sqlite3.connect(folder / "server.db") as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()


DAMAGES: list[Callable[[Path, Used], None]] = [
    *(empty, truncated, noise, page_overwritten, old_copy, copy_while_jobs_waited, missing_wal),
    *(wal_of_an_empty_database, wal_of_another_time, foreign_database, database_of_another_folder, tables_missing),
    *(deleted, renamed, folder_in_its_place, newer_version),
]
KEPT_IN_LOST_AND_FOUND = {truncated, noise, page_overwritten, foreign_database, tables_missing}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_recovery_after_database_damage_loses_nothing(
    damage: Callable[[Path, Used], None], used: Used, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No file is deleted, every model answers its owner and nobody else, and what was moved is named in the log."""
    folder = tmp_path / "data"
    shutil.copytree(used.folder, folder)
    damage(folder, used)
    before = contents(folder)
    database = (folder / "server.db").read_bytes() if damage in KEPT_IN_LOST_AND_FOUND else b""
    caplog.set_level(logging.WARNING, "ftpipe.server")
    if damage is newer_version:
        with pytest.raises(LocalStateError, match="version 99"), running(folder):
            pass
        assert before - contents(folder) == Counter()
        (folder / "server.db").rename(tmp_path / "newer.db")
    with running(folder) as clients:
        for owner, names in used.models.items():
            stranger = clients["bert" if owner == "anna" else "anna"]
            for name in names:
                job = next(path.name for path in (folder / "jobs").iterdir() if name.endswith(path.name[-8:]))
                assert wait_for(clients[owner], job, "succeeded")["fine_tuned_model"] == name
                chat = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
                assert clients[owner].post("/v1/chat/completions", json=chat).status_code == 200
                assert stranger.post("/v1/chat/completions", json=chat).status_code == 404
    assert before - contents(folder) == Counter()
    moved = [path for path in (folder / "lost+found").rglob("*") if path.is_file()]
    assert not database or database in [path.read_bytes() for path in moved]
    items = {path.relative_to(folder / "lost+found").parts[1:3] for path in moved}
    named = [record.getMessage() for record in caplog.records]
    assert [item for item in items if not any("/".join(item) in line or item[0] in line for line in named)] == []
    assert count_items(folder)[0] == len({item[:2] if item[0] != "server.db" else item[:1] for item in items})


def test_recovery_twice_changes_nothing_more(used: Used, tmp_path: Path) -> None:
    """The second start finds a database and a folder that agree."""
    folder = tmp_path / "data"
    shutil.copytree(used.folder, folder)
    (folder / "server.db").unlink()
    for _ in range(2):
        with running(folder) as clients:
            paused = wait_for(clients["anna"], used.unfinished, "paused")
            assert (paused["status"], paused["x_ftpipe"]["reason"]) == ("queued", "restored")
        moved = sorted(str(path) for path in (folder / "lost+found").rglob("*"))
        assert len([path for path in (folder / "lost+found").iterdir()]) == 1
    assert sorted(str(path) for path in (folder / "lost+found").rglob("*")) == moved


def test_recovery_lets_a_paused_job_continue(used: Used, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(used.folder, folder)
    (folder / "server.db").unlink()
    with running(folder) as clients:
        job = f"/v1/fine_tuning/jobs/{used.unfinished}"
        assert clients["bert"].post(f"{job}/resume").status_code == 404
        assert clients["anna"].post(f"{job}/resume").status_code == 200
        wait_for(clients["anna"], used.unfinished, "running")
        assert clients["anna"].post(f"{job}/cancel").status_code == 200


@pytest.mark.parametrize(
    "change",
    [{"id": "ftjob-other"}, {"owner": "../anna"}, {"owner": 5}, {"model_name": "gpt-4o"}, {"schema": "x/1"}, {"x": 1}],
    ids=str,
)
def test_recovery_does_not_believe_a_wrong_manifest(change: dict[str, Any], used: Used, tmp_path: Path) -> None:
    """The job's folder goes to lost+found, as a whole."""
    folder = tmp_path / "data"
    shutil.copytree(used.folder, folder)
    (folder / "server.db").unlink()
    name = used.models["bert"][0]
    job = next(path for path in (folder / "jobs").iterdir() if name.endswith(path.name[-8:]))
    manifest = json.loads((job / "job.json").read_text(encoding="utf-8"))
    (job / "job.json").write_text(json.dumps(manifest | change), encoding="utf-8")
    before = contents(folder)
    with running(folder) as clients:
        assert clients["bert"].get(f"/v1/models/{name}").status_code == 404
    assert before - contents(folder) == Counter()
    assert len(list((folder / "lost+found").glob(f"*/jobs/{job.name}/checkpoints/*/manifest.json"))) > 0


def test_recovery_gives_a_model_name_to_one_job_only(used: Used, tmp_path: Path) -> None:
    """A copied job folder with a manifest of its own does not take the name of a model that answers."""
    folder = tmp_path / "data"
    shutil.copytree(used.folder, folder)
    name = used.models["anna"][0]
    job = next(path for path in (folder / "jobs").iterdir() if name.endswith(path.name[-8:]))
    copy = job.with_name("ftjob-copied")
    shutil.copytree(job, copy)
    manifest = json.loads((copy / "job.json").read_text(encoding="utf-8")) | {"id": "ftjob-copied", "owner": "bert"}
    (copy / "job.json").write_text(json.dumps(manifest), encoding="utf-8")
    with running(folder) as clients:
        assert clients["anna"].get(f"/v1/models/{name}").status_code == 200
        assert clients["bert"].get(f"/v1/models/{name}").status_code == 404
    assert list((folder / "lost+found").glob("*/jobs/ftjob-copied"))


def test_recovery_spares_what_is_not_a_request_body(tmp_path: Path) -> None:
    """In ``incoming`` only files with the server's names for bodies are deleted."""
    folder = DataDirectory(tmp_path / "data")
    folder.prepare()
    (folder.incoming / f"body-{'0' * 32}").write_bytes(b"half a body")
    (folder.incoming / "thesis.tex").write_bytes(b"mine")
    with running(folder.root):
        pass
    assert list(folder.incoming.iterdir()) == []
    assert [path.read_bytes() for path in (folder.root / "lost+found").rglob("thesis.tex")] == [b"mine"]
    assert not list((folder.root / "lost+found").rglob("body-*"))


def test_cleanup_finishes_a_deletion_that_a_crash_interrupted(tmp_path: Path) -> None:
    """What a client deleted does not come back in lost+found; a record can only name a path of the server."""
    folder = DataDirectory(tmp_path / "data")
    folder.prepare()
    outside, inside = tmp_path / "outside", folder.file("file-1")
    outside.write_bytes(b"mine")
    inside.write_bytes(b"deleted")
    store = open_store(folder.database)
    with store.write() as tx:
        delete_after_commit(tx, folder, inside)
        for path in ("files/../../outside", "../outside", "files", "", str(outside), "jobs/x/../../../outside"):
            tx.deletions.add(path)
        tx.after_commit.clear()  # killed here
    store.close()
    with running(folder.root):
        pass
    assert not inside.exists()
    assert outside.read_bytes() == b"mine"
    assert (folder.root / "files").is_dir()
    assert not (folder.root / "lost+found").exists()


def test_lost_and_found_is_never_overwritten(tmp_path: Path) -> None:
    """The same name, moved at each of three starts, is there three times."""
    folder = DataDirectory(tmp_path / "data")
    for number in range(3):
        folder.prepare()
        folder.file("file-1").write_text(str(number), encoding="utf-8")
        with running(folder.root):
            pass
    moved = list((folder.root / "lost+found").glob("*/files/file-1"))
    assert sorted(path.read_text(encoding="utf-8") for path in moved) == ["0", "1", "2"]


def test_lost_and_found_of_the_file_system_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the top of a disk it belongs to root; the server uses a folder of its own, at each start."""
    folder = DataDirectory(tmp_path / "data")
    folder.prepare()
    own = folder.root / "lost+found"
    own.mkdir()
    monkeypatch.setattr(os, "access", lambda path, *_mode: Path(path) != own)  # root can write everywhere
    for number in range(2):
        folder.file("file-1").write_text(str(number), encoding="utf-8")
        with running(folder.root):
            pass
    assert list(own.iterdir()) == []
    moved = list((folder.root / "lost+found-ftpipe").glob("*/files/file-1"))
    assert sorted(path.read_text(encoding="utf-8") for path in moved) == ["0", "1"]
    assert count_items(folder.root) == (2, 2)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_recovery_leaves_an_unreadable_database_alone(used: Used, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(used.folder, folder)
    (folder / "server.db").chmod(0)
    before = contents(folder)
    with pytest.raises(LocalStateError), running(folder):
        pass
    assert contents(folder) == before
