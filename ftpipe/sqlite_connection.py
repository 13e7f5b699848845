"""Connect to an SQLite database without changing anything, neither in it nor beside it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote


def connect_read_only(path: Path, *, timeout_seconds: float) -> sqlite3.Connection:
    """Connect to an existing database, and make no files beside it.

    SQLite makes a log and its index for readers, too, unless the database is opened as immutable. Without a log or a
    rollback journal no program is writing to it.

    Args:
        path: The database.
        timeout_seconds: How long to wait for a program that holds a lock.
    """
    logs = [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-journal")]
    is_in_use = any(log.exists() and log.stat().st_size for log in logs)
    options = "mode=ro" if is_in_use else "mode=ro&immutable=1"
    return sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?{options}", uri=True, timeout=timeout_seconds, check_same_thread=False
    )
