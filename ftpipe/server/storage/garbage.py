"""Find and delete what a crash left in the data folder, although the database says that nobody needs it any more.

Only what a row names is garbage: the absence of a row says nothing. So this neither looks at ``lost+found`` nor at
files that the database does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ftpipe.records.job import TERMINAL_STATUSES
from ftpipe.server.jobs.trainer_process import is_locked
from ftpipe.server.storage.batches import ENDED
from ftpipe.server.storage.cleanup import delete_after_commit
from ftpipe.server.storage.data_dir import DataDirectory
from ftpipe.server.storage.database import Transaction, open_store, open_store_read_only
from ftpipe.server.storage.tables import BatchRow


@dataclass(frozen=True, slots=True)
class ServerGarbage:
    """A file or folder that can be deleted."""

    path: Path
    reason: str
    job_id: str | None = None
    """The ended job whose files it belongs to; ``None`` for what the database records as deleted."""


def find_garbage(root: Path) -> list[ServerGarbage]:
    """Everything in a data folder that can be deleted; nothing is written, and a server may be running.

    Raises:
        LocalStateError: The folder has a symbolic link in it, or its database cannot be read.
    """
    data_dir = DataDirectory(root)
    if not data_dir.has_marker() or not data_dir.database.exists():
        return []
    data_dir.refuse_links()
    store = open_store_read_only(data_dir.database)
    try:
        with store.read() as tx:
            found = {one.path: one for one in _candidates(tx, data_dir) if one.path.exists()}
    finally:
        store.close()
    return [one for path, one in sorted(found.items()) if not any(parent in found for parent in path.parents)]


def _candidates(tx: Transaction, data_dir: DataDirectory) -> Iterator[ServerGarbage]:
    for upload in tx.uploads.all():
        if upload.status != "pending":
            yield ServerGarbage(data_dir.upload(upload.id), f"parts of an upload that is {upload.status}")
    for batch in tx.batches.all(BatchRow.status.in_(ENDED)):
        yield ServerGarbage(data_dir.batch(batch.id), f"input of a batch that is {batch.status}")
    for job in tx.jobs.all():
        directory = data_dir.job(job.id)
        if job.status not in TERMINAL_STATUSES or job.has_trainer or is_locked(directory):
            continue
        if job.deleted:
            yield ServerGarbage(directory.checkpoints_dir, f"checkpoints of the deleted model {job.model_name}")
        for checkpoint in tx.checkpoints.for_job(job.id):
            if checkpoint.removed and checkpoint.step != job.final_step:
                yield ServerGarbage(directory.checkpoint_dir(checkpoint.step), f"deleted: {checkpoint.model_name}")
        for path in directory.unneeded_files():
            yield ServerGarbage(path, f"not needed any more by {job.id}, which has {job.status}", job.id)


def delete_garbage(root: Path, garbage: list[ServerGarbage]) -> None:
    """Delete what ``find_garbage`` returned; it is recorded first, as every deletion of the server.

    Raises:
        LocalStateError: The database cannot be written.
    """
    if not garbage:
        return
    data_dir = DataDirectory(root)
    store = open_store(data_dir.database)
    try:
        with store.write() as tx:
            for one in garbage:
                if one.job_id is None:
                    delete_after_commit(tx, data_dir, one.path)
        for job_id in {one.job_id for one in garbage if one.job_id is not None}:
            data_dir.job(job_id).remove_inputs()
    finally:
        store.close()
