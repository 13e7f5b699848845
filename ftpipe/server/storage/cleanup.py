"""Delete what has expired, and what a crash left without a row in the database."""

from __future__ import annotations

import shutil
from functools import partial

from ftpipe.server.clock import now
from ftpipe.server.storage import Store
from ftpipe.server.storage.data_dir import DataDirectory


def delete_expired(store: Store, data_dir: DataDirectory) -> None:
    """Delete expired files, and end uploads that have expired."""
    moment = now()
    with store.read() as tx:
        if not tx.files.expired(moment) and not tx.uploads.overdue(moment):
            return
    with store.write() as tx:
        for row in tx.files.expired(moment):
            tx.files.delete(row.id)
            tx.after_commit.append(partial(data_dir.file(row.id).unlink, missing_ok=True))
        for upload in tx.uploads.overdue(moment):
            tx.uploads.set_status(upload.id, "expired")
            tx.parts.delete_for_upload(upload.id)
            tx.after_commit.append(partial(shutil.rmtree, data_dir.upload(upload.id), ignore_errors=True))


def remove_orphans(store: Store, data_dir: DataDirectory) -> None:
    """Delete files and folders without a row: a crash came between writing them and the commit."""
    with store.read() as tx:
        files = {row.id for row in tx.files.all()}
        jobs = {row.id for row in tx.jobs.all()}
        uploads = {row.id for row in tx.uploads.all() if row.status == "pending"}
    for name, known in (("files", files), ("jobs", jobs), ("uploads", uploads)):
        for path in (data_dir.root / name).iterdir():
            if path.name in known:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
