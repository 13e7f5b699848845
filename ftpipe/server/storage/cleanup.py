"""Removing what has expired, and what a crash left without a row."""

from __future__ import annotations

import shutil
from functools import partial

from ftpipe.server.clock import now
from ftpipe.server.storage import Store
from ftpipe.server.storage.data_dir import DataDirectory


def delete_expired(store: Store, data_dir: DataDirectory) -> None:
    """Drop expired files, and end uploads whose hour is over."""
    moment = now()
    with store.read() as tx:
        nothing = not tx.files.expired(moment) and not tx.uploads.overdue(moment)
    if nothing:
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
    """Remove bytes that no row names: a crash came between writing them and the commit."""
    with store.read() as tx:
        files = {row.id for row in tx.files.all()}
        jobs = {row.id for row in tx.jobs.all()}
        uploads = {row.id for row in tx.uploads.all() if row.status == "pending"}
    for name, known in (("files", files), ("jobs", jobs), ("uploads", uploads)):
        for place in (data_dir.root / name).iterdir():
            if place.name in known:
                continue
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)
