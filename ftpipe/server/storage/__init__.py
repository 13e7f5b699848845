"""The server's memory: one SQLite database that keeps every committed step through a crash."""

from ftpipe.server.storage.database import Store, Transaction, open_store
from ftpipe.server.storage.repositories import Page, UnknownCursorError
from ftpipe.server.storage.rows import (
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
