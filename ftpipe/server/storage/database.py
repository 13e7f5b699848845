"""Open the server's database, and read or write it in transactions."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from ftpipe.errors import LocalStateError
from ftpipe.server.storage.batches import BatchRepository
from ftpipe.server.storage.repositories import (
    CheckpointRepository,
    CompletionRepository,
    DeletionRepository,
    EventRepository,
    FileRepository,
    IdempotencyRepository,
    JobRepository,
    PartRepository,
    PermissionRepository,
    UploadRepository,
)
from ftpipe.server.storage.responses import ResponseRepository
from ftpipe.server.storage.shadow_results import ShadowRepository
from ftpipe.server.storage.tables import Base
from ftpipe.sqlite_connection import connect_read_only

BUSY_TIMEOUT_SECONDS = 30
"""How long a writer waits for another writer."""
Migration = Callable[[Connection], None]
MIGRATIONS: tuple[Migration, ...] = ()
"""The first one brings a database of version 1 to version 2, and so on. A released one is never edited."""


APPLICATION_ID = 0x66747073
"""SQLite's ``application_id`` of the server's databases: ``ftps``."""


class DamagedDatabaseError(LocalStateError):
    """The file is damaged, or not a database of the server."""


class Transaction:
    """The tables within one transaction."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.after_commit: list[Callable[[], None]] = []
        """Called once the transaction is durable, for example to delete the bytes of a deleted row."""
        self.files = FileRepository(session)
        self.uploads = UploadRepository(session)
        self.parts = PartRepository(session)
        self.jobs = JobRepository(session)
        self.events = EventRepository(session)
        self.checkpoints = CheckpointRepository(session)
        self.permissions = PermissionRepository(session)
        self.completions = CompletionRepository(session)
        self.responses = ResponseRepository(session)
        self.batches = BatchRepository(session)
        self.shadow = ShadowRepository(session)
        self.deletions = DeletionRepository(session)
        self.idempotency_keys = IdempotencyRepository(session)


class Store:
    """A database of the server; open it with ``open_store``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._write_engine = engine.execution_options(ftpipe_begin="BEGIN IMMEDIATE")

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A consistent view; nothing is written.

        Raises:
            LocalStateError: If the database cannot be read.
        """
        with _translated_errors(), Session(self._engine, autoflush=False) as session:
            yield Transaction(session)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A transaction that is durable when the block ends, and undone if it raises.

        It takes the write lock at its start: one that turned from reading to writing would fail with "database is
        locked" instead of waiting.

        Raises:
            LocalStateError: If the disk is full, or the database is damaged or locked for too long.
        """
        session = Session(self._write_engine, autoflush=False, expire_on_commit=False)
        with _translated_errors(), session, session.begin():
            session.connection()
            transaction = Transaction(session)
            yield transaction
        for action in transaction.after_commit:
            action()

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


def open_store(path: Path) -> Store:
    """Open the server's database, and create it if there is none.

    Args:
        path: The SQLite file; its folder must exist.

    Raises:
        DamagedDatabaseError: If the file is damaged, or not a database of the server.
        LocalStateError: If it was written by a newer ftpipe, or cannot be read or written.
    """
    damage = find_damage(path)
    if damage:
        message = f"the server's database {path} cannot be used: {damage}"
        raise DamagedDatabaseError(message, "move it away; the server then makes a new one")
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    engine = create_engine(
        f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False}, pool_size=48
    )
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    try:
        with _translated_errors(), engine.execution_options(ftpipe_begin="BEGIN IMMEDIATE").begin() as connection:
            _migrate(connection)
    except LocalStateError:
        engine.dispose()
        raise
    return Store(engine)


def open_store_read_only(path: Path) -> Store:
    """Open the server's database as it is, to read it; nothing is written, and it may be in use.

    Raises:
        LocalStateError: If there is none, it is damaged, or another version of ftpipe wrote it.
    """
    damage = find_damage(path) if path.exists() else "there is none"
    if damage:
        message = f"the server's database {path} cannot be used: {damage}"
        raise DamagedDatabaseError(message, "`ftpipe serve` makes it, or says what it does about it")
    engine = create_engine(
        f"sqlite:///{path}",
        creator=lambda: connect_read_only(path, timeout_seconds=BUSY_TIMEOUT_SECONDS),
        poolclass=NullPool,
    )
    with _translated_errors(), engine.connect() as connection:
        version = connection.execute(text("PRAGMA user_version")).scalar() or 0
    if version != 1 + len(MIGRATIONS):
        message = f"the server's database has version {version}, and this ftpipe reads {1 + len(MIGRATIONS)}"
        raise LocalStateError(message, "start the server with this ftpipe first: `ftpipe serve`")
    return Store(engine)


def _migrate(connection: Connection) -> None:
    """Make the tables of a new database, or bring an older one to this ftpipe's version, SQLite's ``user_version``.

    It is one transaction: an interrupted migration changes nothing.
    """
    newest = 1 + len(MIGRATIONS)
    version = connection.execute(text("PRAGMA user_version")).scalar() or 0
    if version > newest:
        message = f"the server's database has version {version}, but this ftpipe knows only {newest}"
        raise LocalStateError(message, "upgrade with `pip install -U ftpipe`, or choose another folder with --data-dir")
    if version == 0:
        Base.metadata.create_all(connection)
    else:
        for migration in MIGRATIONS[version - 1 :]:
            migration(connection)
    connection.execute(text(f"PRAGMA application_id={APPLICATION_ID}"))
    connection.execute(text(f"PRAGMA user_version={newest}"))


def find_damage(path: Path) -> str | None:
    """Why a file cannot be the server's database; ``None`` if it can, and for a file that does not exist yet.

    The file is only read, and none is made beside it: opening a database of another program for writing would change
    it.
    """
    if path.is_dir():
        return "it is a folder"
    if not path.exists() or path.stat().st_size == 0:
        wal = path.with_name(f"{path.name}-wal")
        # SQLite would delete the log of a database that is empty.
        return "it is empty, but its write-ahead log is not" if wal.exists() and wal.stat().st_size else None
    try:
        connection = connect_read_only(path, timeout_seconds=BUSY_TIMEOUT_SECONDS)
    except sqlite3.Error as exc:
        raise _unusable(exc) from exc
    try:
        return _find_damage_in(connection)
    except sqlite3.OperationalError as exc:
        raise _unusable(exc) from exc
    except sqlite3.DatabaseError as exc:
        return str(exc)
    finally:
        connection.close()


def _find_damage_in(connection: sqlite3.Connection) -> str | None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return None
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        return "it belongs to another program"
    problem = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    if problem != "ok":
        return problem.splitlines()[-1]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    missing = sorted(Base.metadata.tables.keys() - tables) if version == 1 + len(MIGRATIONS) else []
    return f"it has no table {missing[0]}" if missing else None


def _unusable(exc: sqlite3.Error) -> LocalStateError:
    return LocalStateError(
        f"the server's database cannot be used: {exc}", "free some disk space or check the folder's permissions"
    )


def _on_connect(dbapi: sqlite3.Connection, _record: object) -> None:
    """Set what makes a commit durable; in autocommit mode the driver itself begins no transaction."""
    dbapi.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "fullfsync=ON"):
        dbapi.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("ftpipe_begin", "BEGIN"))


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Turn database errors into ours, so that no caller needs to know the driver."""
    try:
        yield
    except OperationalError as exc:
        message = f"the server's database cannot be used: {exc.orig}"
        raise LocalStateError(message, "free some disk space or check the folder's permissions") from exc
    except SQLAlchemyError as exc:
        message = f"the server's database has an error: {exc}"
        raise LocalStateError(message, "stop the server and move the database file aside") from exc
