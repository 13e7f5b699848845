"""Compare the data folder with the database at the start: rebuild jobs from their folders, move the rest away.

The absence of a row is not a reason to delete anything: the database may be new, an old copy, or have been damaged.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from ftpipe.server.jobs.trainer_process import is_locked
from ftpipe.server.storage.batches import ENDED, answer_ids
from ftpipe.server.storage.cleanup import finish_deletions
from ftpipe.server.storage.data_dir import DataDirectory, is_body, is_valid_id
from ftpipe.server.storage.database import DamagedDatabaseError, Store, open_store
from ftpipe.server.storage.job_manifest import read_manifest
from ftpipe.server.storage.lost_and_found import LostAndFound
from ftpipe.server.storage.tables import JobRow
from ftpipe.training.job_directory import JobDirectory

log = logging.getLogger("ftpipe.server")

_SIDECARS = ("-wal", "-shm", "-journal")


def open_or_replace(data_dir: DataDirectory) -> Store:
    """Open the database; one that is damaged or not the server's goes to ``lost+found``, and a new one is made.

    Raises:
        LocalStateError: If it cannot be used for another reason, for example because a newer ftpipe wrote it.
    """
    try:
        return open_store(data_dir.database)
    except DamagedDatabaseError as exc:
        log.error("%s; a new one is made, and what the job folders record is restored", exc)
        lost = LostAndFound(data_dir.root)
        for path in (data_dir.database, *(data_dir.root / f"server.db{suffix}" for suffix in _SIDECARS)):
            if path.exists():
                lost.move(path, "damaged database")
        return open_store(data_dir.database)


def recover(store: Store, data_dir: DataDirectory) -> None:
    """Bring data folder and database together; nothing that the database does not say is deleted."""
    finish_deletions(store, data_dir)
    lost = LostAndFound(data_dir.root)
    result_files = _restore_jobs(store, data_dir, lost)
    with store.read() as tx:
        files = {row.id for row in tx.files.all()}
        batches = {row.id: row.status for row in tx.batches.all()}
        uploads = {row.id: row.status for row in tx.uploads.all()}
    answer_files = {
        name for batch_id, status in batches.items() if status not in ENDED for name in answer_ids(batch_id)
    }
    for path in _entries(data_dir, "files"):
        if path.name not in files | result_files | answer_files:
            lost.move(path, "a file that the database does not know")
    for path in _entries(data_dir, "uploads"):
        status = uploads.get(path.name)
        if status is None:
            _move_unless_empty(path, lost, "an upload that the database does not know")
        elif status != "pending":
            shutil.rmtree(path, ignore_errors=True)
    for path in _entries(data_dir, "batches"):
        status = batches.get(path.name)
        if status is None:
            lost.move(path, "the input of a batch that the database does not know")
        elif status in ENDED:
            path.unlink()
    for path in _entries(data_dir, "incoming"):
        if is_body(path):
            path.unlink()
        else:
            lost.move(path, "not a request body")


def _restore_jobs(store: Store, data_dir: DataDirectory, lost: LostAndFound) -> set[str]:
    """Add rows for jobs that only their folders know; other folders without a row go to ``lost+found``.

    A restored job is in the state in which a crash would have left it, so that the supervisor carries it to its end.

    Returns:
        Ids of the result files of these jobs, which the supervisor writes again.
    """
    with store.read() as tx:
        known = {row.id: row for row in tx.jobs.all()}
    names = {row.model_name for row in known.values()}
    restored: list[JobRow] = []
    for path in _entries(data_dir, "jobs"):
        directory = JobDirectory(path)
        if path.name in known:
            continue
        row = read_manifest(directory) if path.is_dir() and is_valid_id(path.name) else None
        state = None if row is None or row.model_name in names else _state_on_disk(directory)
        if row is None or state is None:
            what = "a job" if row is None else f"job of {row.owner}, model {row.model_name}"
            _move_unless_empty(path, lost, f"{what} that the database does not know and that has no model")
            continue
        names.add(row.model_name)
        row.status, row.has_trainer, row.validated = state, state == "running", True
        if state == "paused":
            row.desired_state, row.pause_reason = "pause", "restored"
        restored.append(row)
    finished = [row for row in known.values() if row.status in _BEFORE_TRAINING and _has_model(data_dir.job(row.id))]
    if restored or finished:
        with store.write() as tx:
            for row in sorted(restored, key=lambda each: each.created_at):
                tx.jobs.add(row)
                tx.events.append_message(row.id, "The job was restored from its folder", level="warn")
                log.warning("restored job %s of %s from its folder: model %s", row.id, row.owner, row.model_name)
            for row in finished:
                values = {"status": "running", "desired_state": "run", "pause_reason": None}
                tx.jobs.update(row.id, **values, has_trainer=True, validated=True)
                log.warning("job %s has ended, though the database does not say so: an old copy?", row.id)
    return {f"file-{row.id.removeprefix('ftjob-')}" for row in (*restored, *finished)}


_BEFORE_TRAINING = ("validating_files", "queued", "paused")


def _state_on_disk(directory: JobDirectory) -> str | None:
    """``running`` for a job that has ended or still trains, ``paused`` for one that can continue, else ``None``."""
    result = directory.read_result()
    if is_locked(directory):
        return "running"
    if result is not None:
        return "running" if not result.succeeded or _has_model(directory) else None
    was_started = directory.spec_file.is_file() and directory.training_file.is_file()
    return "paused" if was_started else None


def _has_model(directory: JobDirectory) -> bool:
    result = directory.read_result()
    return (
        result is not None
        and result.succeeded
        and result.final_step is not None
        and directory.has_checkpoint(result.final_step)
    )


def _entries(data_dir: DataDirectory, name: str) -> Iterator[Path]:
    yield from sorted((data_dir.root / name).iterdir())


def _move_unless_empty(path: Path, lost: LostAndFound, reason: str) -> None:
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
    else:
        lost.move(path, reason)
