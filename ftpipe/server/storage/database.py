"""Opening the database, and the two kinds of transaction that everything else uses."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

import ftpipe.server.storage.tables as tables
from ftpipe.errors import LocalStateError
from ftpipe.server.storage.repositories import (
    CheckpointRepository,
    CompletionRepository,
    EventRepository,
    FileRepository,
    IdempotencyRepository,
    JobRepository,
    PartRepository,
    PermissionRepository,
    UploadRepository,
)

BUSY_SECONDS = 30
"""How long a writer waits for another writer."""


class Transaction:
    """The tables, seen through one transaction."""

    def __init__(self, conn: Connection) -> None:
        self.after_commit: list[Callable[[], None]] = []
        """Done once the transaction is durable, for example removing bytes that no row names any more."""
        self.files = FileRepository(conn)
        self.uploads = UploadRepository(conn)
        self.parts = PartRepository(conn)
        self.jobs = JobRepository(conn)
        self.events = EventRepository(conn)
        self.checkpoints = CheckpointRepository(conn)
        self.permissions = PermissionRepository(conn)
        self.completions = CompletionRepository(conn)
        self.idempotency_keys = IdempotencyRepository(conn)


class Store:
    """A database of the server; open it with ``open_store``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = engine.execution_options(ftpipe_begin="BEGIN IMMEDIATE")

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A consistent view; nothing is written.

        Raises:
            LocalStateError: If the database cannot be read.
        """
        with _translated(), self._engine.connect() as conn:
            yield Transaction(conn)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A transaction that is durable when the block ends, and undone when it raises.

        It takes the write lock at its start: a deferred one would meet "database is locked" without waiting.

        Raises:
            LocalStateError: If the disk is full, or the database is damaged or locked for too long.
        """
        with _translated(), self._writing.begin() as conn:
            transaction = Transaction(conn)
            yield transaction
        for action in transaction.after_commit:
            action()

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()


def open_store(path: Path) -> Store:
    """Open the server's database, making it where there is none.

    Args:
        path: The SQLite file; its folder must exist.

    Raises:
        LocalStateError: If the file is no database, is damaged, or was made by a newer ftpipe.
    """
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    engine = create_engine(
        f"sqlite:///{path}", connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False}, pool_size=48
    )
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    try:
        with _translated(), engine.execution_options(ftpipe_begin="BEGIN IMMEDIATE").begin() as conn:
            _prepare(conn, path)
    except LocalStateError:
        engine.dispose()
        raise
    return Store(engine)


def _on_connect(dbapi: sqlite3.Connection, _record: object) -> None:
    """Set what makes a commit durable; autocommit mode leaves BEGIN to us."""
    dbapi.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "fullfsync=ON"):
        dbapi.execute(f"PRAGMA {pragma}")


def _on_begin(conn: Connection) -> None:
    conn.exec_driver_sql(conn.get_execution_options().get("ftpipe_begin", "BEGIN"))


def _prepare(conn: Connection, path: Path) -> None:
    version = conn.execute(text("PRAGMA user_version")).scalar() or 0
    if version > tables.VERSION:
        message = f"{path} was made by a newer ftpipe (schema {version}, this one knows {tables.VERSION})"
        raise LocalStateError(message, "upgrade ftpipe, or choose another folder with --data-dir")
    if version < tables.VERSION:
        tables.metadata.create_all(conn)
        conn.execute(text(f"PRAGMA user_version={tables.VERSION}"))


@contextmanager
def _translated() -> Iterator[None]:
    """Database errors as ours, so that no caller needs to know the driver."""
    try:
        yield
    except OperationalError as exc:
        message = f"the server's database cannot be used: {exc.orig}"
        raise LocalStateError(message, "free some disk space or check the folder's permissions") from exc
    except SQLAlchemyError as exc:
        message = f"the server's database is at fault: {exc}"
        raise LocalStateError(message, "stop the server and move the database file aside") from exc
