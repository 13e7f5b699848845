"""The server's memory: one SQLite database that keeps every committed step through a crash."""

from ftpipe.server.store.database import Store, Transaction, open_store
from ftpipe.server.store.paging import Page, UnknownCursorError
from ftpipe.server.store.rows import (
    CheckpointRow,
    CompletionRow,
    EventRow,
    FileRow,
    IdempotencyRow,
    JobRow,
    PartRow,
    PermissionRow,
    UploadRow,
)

__all__ = [
    "CheckpointRow",
    "CompletionRow",
    "EventRow",
    "FileRow",
    "IdempotencyRow",
    "JobRow",
    "Page",
    "PartRow",
    "PermissionRow",
    "Store",
    "Transaction",
    "UnknownCursorError",
    "UploadRow",
    "open_store",
]
