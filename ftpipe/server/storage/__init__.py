"""The server's SQLite database: open, read, write."""

from ftpipe.server.storage.database import Store, Transaction, open_store
from ftpipe.server.storage.repositories import Page, UnknownCursorError
from ftpipe.server.storage.tables import (
    RESULT_PURPOSE,
    BatchAnswerRow,
    BatchRow,
    CheckpointRow,
    CompletionRow,
    EventRow,
    FileRow,
    IdempotencyRow,
    JobRow,
    PartRow,
    PermissionRow,
    ResponseRow,
    ShadowPairRow,
    ShadowResultRow,
    UploadRow,
)

__all__ = [
    "RESULT_PURPOSE",
    "BatchAnswerRow",
    "BatchRow",
    "CheckpointRow",
    "CompletionRow",
    "EventRow",
    "FileRow",
    "IdempotencyRow",
    "JobRow",
    "Page",
    "PartRow",
    "PermissionRow",
    "ResponseRow",
    "ShadowPairRow",
    "ShadowResultRow",
    "Store",
    "Transaction",
    "UnknownCursorError",
    "UploadRow",
    "open_store",
]
