"""Delete what a record says may be deleted: what has expired, ended uploads, and deletions that a crash interrupted."""

from __future__ import annotations

import logging
import shutil
from functools import partial
from pathlib import Path, PurePosixPath

from ftpipe.server.clock import now
from ftpipe.server.storage.data_dir import DataDirectory, is_valid_id
from ftpipe.server.storage.database import Store, Transaction

log = logging.getLogger("ftpipe.server")

_CATEGORIES = ("files", "uploads", "jobs", "batches")


def delete_after_commit(tx: Transaction, data_dir: DataDirectory, path: Path) -> None:
    """Delete a file or folder once the transaction is durable.

    The deletion is recorded in the same transaction, so that a crash in between does not leave the bytes behind.

    Args:
        tx: The transaction that deletes the row.
        data_dir: The data folder.
        path: Below ``files``, ``uploads``, ``jobs`` or ``batches``.
    """
    tx.deletions.add(path.relative_to(data_dir.root).as_posix())
    tx.after_commit.append(partial(_remove, path))


def delete_expired(store: Store, data_dir: DataDirectory) -> None:
    """Delete expired files and responses, end uploads that have expired, and finish recorded deletions."""
    moment = now()
    with store.read() as tx:
        has_expired = bool(tx.files.expired(moment) or tx.uploads.overdue(moment) or tx.responses.has_expired(moment))
    if has_expired:
        with store.write() as tx:
            for row in tx.files.expired(moment):
                tx.files.delete(row.id)
                delete_after_commit(tx, data_dir, data_dir.file(row.id))
            for upload in tx.uploads.overdue(moment):
                tx.uploads.set_status(upload.id, "expired")
                tx.parts.delete_for_upload(upload.id)
                delete_after_commit(tx, data_dir, data_dir.upload(upload.id))
            tx.responses.delete_expired(moment)
    finish_deletions(store, data_dir)


def finish_deletions(store: Store, data_dir: DataDirectory) -> None:
    """Carry out the recorded deletions, and forget those that are done."""
    with store.read() as tx:
        recorded = tx.deletions.all()
    if not recorded:
        return
    for name in recorded:
        if _is_deletable(name):
            _remove(data_dir.root / name)
        else:
            log.error("the database records the deletion of %r, which is not a path of the server; ignored", name)
    with store.write() as tx:
        tx.deletions.delete(recorded)


def _is_deletable(name: str) -> bool:
    """True for a path below a file, upload or job: a damaged database cannot name anything else."""
    parts = PurePosixPath(name).parts
    return 2 <= len(parts) <= 4 and parts[0] in _CATEGORIES and all(is_valid_id(part) for part in parts[1:])


def _remove(path: Path) -> None:
    if path.is_symlink():
        log.error("%s is a symbolic link and was not deleted", path)
    elif path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
