"""Opens the database (SQLite, or PostgreSQL by URL) so that it survives crashes, and explains what is wrong with it."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc

from ftpipe.errors import ConfigError, LocalStateError, MissingExtraError
from ftpipe.registry.migrations import MIGRATIONS
from ftpipe.registry.tables import APPLICATION_ID, version_table


@contextlib.contextmanager
def translated_errors(engine: sa.Engine) -> Iterator[None]:
    """Turn what a database can raise into a ``LocalStateError`` that says what to do."""
    try:
        yield
    except exc.DBAPIError as error:
        raise explain(engine, error) from error


def explain(engine: sa.Engine, error: exc.DBAPIError) -> LocalStateError:
    """What a database error means for the user."""
    said, place = " ".join(str(error.orig).split()), str(engine.url.database)
    if engine.dialect.name != "sqlite":
        return LocalStateError(
            f"the registry's database does not answer as it should: {said}",
            "is PostgreSQL running, and is the URL right? `ftpipe resume` goes on from the last committed step",
        )
    if "full" in said or "disk I/O" in said:
        return LocalStateError(
            f"cannot write to {place}: {said}", "free some disk space; what was committed is kept, then `ftpipe resume`"
        )
    if "readonly" in said or "unable to open" in said:
        return LocalStateError(
            f"cannot write to {place}: {said}",
            "check the folder's permissions, or name another place with FTPIPE_REGISTRY",
        )
    if "locked" in said or "busy" in said:
        return LocalStateError(f"{place} is held by another program: {said}", "close it, then `ftpipe resume`")
    return damaged(engine, said)


def damaged(engine: sa.Engine, said: str) -> LocalStateError:
    """The error for a database that is not whole."""
    return LocalStateError(
        f"the registry {engine.url.database} is damaged: {said}",
        "`ftpipe doctor --repair` moves it aside and rebuilds it from what the endpoint lists",
    )


BUSY_MILLISECONDS = 30_000
_IN_THE_KERNEL = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "ncpfs", "ceph", "lustre", "beegfs", "gpfs")
_FUSE = ("sshfs", "glusterfs", "ceph", "s3fs", "rclone", "gcsfuse", "goofys", "davfs", "nfs")
NETWORK_FILE_SYSTEMS = frozenset((*_IN_THE_KERNEL, *(f"fuse.{name}" for name in _FUSE)))
"""SQLite's write-ahead log needs shared memory, which these do not give. Source: sqlite.org/wal.html, 2026-11."""
READ_ATTEMPTS = 8


def open_engine(url: str) -> sa.Engine:
    """Open a database and bring its tables up to date.

    Args:
        url: A path or ``sqlite:///`` URL, or ``postgresql://`` URL.

    Raises:
        ConfigError: The URL's scheme is not one of these.
        MissingExtraError: The driver is not installed.
        LocalStateError: The database cannot be opened, is damaged, or is of a newer ftpipe.
    """
    scheme = url.split("://", 1)[0] if "://" in url else "sqlite"
    if scheme == "sqlite":
        engine = _open_sqlite(Path(url.removeprefix("sqlite:///")))
    elif scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        engine = _open_postgres("postgresql+psycopg://" + url.split("://", 1)[1])
    else:
        raise ConfigError(f"a registry cannot be kept at {scheme}://…", "give a path, sqlite:///… or postgresql://…")
    with translated_errors(engine):
        migrate(engine)
    return engine


def _open_sqlite(path: Path) -> sa.Engine:
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise LocalStateError(
            f"cannot make the state folder {folder}: {error.strerror}",
            "run ftpipe where you may write, or name another place with --registry or FTPIPE_REGISTRY",
        ) from error
    kind = filesystem_of(folder)
    if kind in NETWORK_FILE_SYSTEMS:
        raise LocalStateError(
            f"{folder} is on a network file system ({kind}), where SQLite is not safe",
            "name a local folder with FTPIPE_REGISTRY, or use PostgreSQL: FTPIPE_REGISTRY=postgresql://…",
        )
    _create_private_file(path)
    engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver
        for pragma in (
            f"busy_timeout={BUSY_MILLISECONDS}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "fullfsync=ON",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # a deferred transaction that turns into a write is refused at once when another writer is there
        reads = connection.get_execution_options().get("ftpipe_reads", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    with translated_errors(engine):
        check_sqlite(engine)
    with contextlib.suppress(OSError):
        path.chmod(0o600)
    return engine


def _create_private_file(path: Path) -> None:
    """Make the file for its owner alone, before anything is in it; a link in its place is not followed.

    Raises:
        LocalStateError: There is a link, or an empty file where runs have been made.
    """
    for suffix in ("", "-wal", "-shm", "-journal"):
        if path.with_name(path.name + suffix).is_symlink():
            raise LocalStateError(
                f"{path}{suffix} is a symbolic link, which could lead anywhere",
                "name the real file with FTPIPE_REGISTRY, or remove the link",
            )
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if path.is_file() and path.stat().st_size == 0 and any((path.parent / "locks").glob("*")):
            raise LocalStateError(
                f"the registry {path} is empty, and runs have been made here",
                "`ftpipe doctor --repair` moves it aside and rebuilds it from what the endpoint lists",
            ) from None
    except OSError as error:
        raise LocalStateError(
            f"cannot write to {path}: {error.strerror}",
            "check the folder's permissions and its disk, or name another place with FTPIPE_REGISTRY",
        ) from error


def _open_postgres(url: str) -> sa.Engine:
    try:
        return sa.create_engine(url, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "PostgreSQL needs psycopg, not installed here", "pip install 'ftpipe[postgres]'"
        ) from error
    except exc.ArgumentError as error:
        raise ConfigError(
            "the registry's URL cannot be read", "its form is postgresql://user@host:5432/database"
        ) from error


def check_sqlite(engine: sa.Engine) -> None:
    """Make sure that the file is a whole database of ours.

    Raises:
        LocalStateError: It is damaged, or it is not ftpipe's.
    """
    with engine.connect().execution_options(ftpipe_reads=True) as connection:
        verdict = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if verdict != "ok":
            raise damaged(engine, str(verdict))
        found = connection.exec_driver_sql("PRAGMA application_id").scalar()
        tables = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar()
        if found not in (0, APPLICATION_ID) or (found == 0 and tables):
            raise LocalStateError(
                f"{engine.url.database} is a database, but not ftpipe's",
                "name another file with --registry or FTPIPE_REGISTRY",
            )
    if found == 0:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")


def migrate(engine: sa.Engine) -> None:
    """Apply the migrations that are missing; an older SQLite database is copied beside itself before.

    Raises:
        LocalStateError: The database was written by a newer ftpipe.
    """
    with engine.connect().execution_options(ftpipe_reads=True) as connection:
        version = _version(connection)
    if version > len(MIGRATIONS):
        raise LocalStateError(
            f"the registry is of version {version}, and this ftpipe knows {len(MIGRATIONS)}", "pip install -U ftpipe"
        )
    if version == len(MIGRATIONS):
        return
    if version and engine.dialect.name == "sqlite":
        _back_up(Path(str(engine.url.database)), version)
    for number in range(version + 1, len(MIGRATIONS) + 1):
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":  # SQLite's write transactions come one after the other already
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(APPLICATION_ID)))
            version_table.create(connection, checkfirst=True)
            if _version(connection) < number:
                MIGRATIONS[number - 1](connection)
                connection.execute(
                    version_table.insert().values(
                        number=number, applied_at=datetime.now(UTC).isoformat(timespec="seconds")
                    )
                )


def _version(connection: sa.Connection) -> int:
    if not sa.inspect(connection).has_table(version_table.name):
        return 0
    return connection.execute(sa.select(sa.func.max(version_table.c.number))).scalar() or 0


def _back_up(path: Path, version: int) -> None:
    target = path.with_name(f"{path.name}.v{version}.backup")
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(target)) as copy:
        source.backup(copy)


def filesystem_of(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Name of the file system that ``folder`` lies on; empty where the platform does not tell."""
    try:
        lines = mounts.read_text(encoding="utf-8").splitlines()
        target = folder.resolve()
    except (OSError, UnicodeDecodeError):
        return ""
    best, kind = "", ""
    for line in lines:
        left, _, right = line.partition(" - ")
        if len(left.split()) < 5 or not right:
            continue
        mount = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), left.split()[4])
        if len(mount) >= len(best) and (target == Path(mount) or Path(mount) in target.parents):
            best, kind = mount, right.split()[0]
    return kind


def _connected(engine: sa.Engine, **options: Any) -> sa.Connection:
    """A connection; the first contact is tried again while a server restarts."""
    for attempt in range(READ_ATTEMPTS - 1):
        try:
            return engine.connect().execution_options(**options)
        except exc.OperationalError as error:
            if engine.dialect.name == "sqlite" or not _is_restarting(error):
                raise
            time.sleep(min(0.25 * 2**attempt, 5))
    return engine.connect().execution_options(**options)


def _is_restarting(error: exc.OperationalError) -> bool:
    """Whether a server may be back soon; a wrong password or a database that is not there will not change."""
    said = str(error.orig)
    return not any(word in said for word in ("authentication failed", "does not exist", "no pg_hba.conf entry"))


@contextlib.contextmanager
def read_transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection for reads."""
    with translated_errors(engine), _connected(engine, ftpipe_reads=True) as connection:
        yield connection


@contextlib.contextmanager
def write_transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that is on the disk when the block ends."""
    with translated_errors(engine), _connected(engine) as connection, connection.begin():
        yield connection


@contextlib.contextmanager
def advisory_lock(engine: sa.Engine, number: int, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock of a PostgreSQL server; it is free again when the connection ends, whatever ends it."""
    with translated_errors(engine):
        connection = _connected(engine, isolation_level="AUTOCOMMIT")
    with connection:
        with translated_errors(engine):
            if not connection.execute(sa.select(sa.func.pg_try_advisory_lock(number))).scalar():
                on_wait()
                connection.execute(sa.select(sa.func.pg_advisory_lock(number)))
        try:
            yield
        finally:
            with contextlib.suppress(exc.DBAPIError):  # a server that has restarted has let go of it
                connection.execute(sa.select(sa.func.pg_advisory_unlock(number)))
