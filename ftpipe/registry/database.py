"""Open the database, SQLite or PostgreSQL, so that it survives crashes, and translate its errors."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import tenacity
from sqlalchemy import event, exc

from ftpipe.errors import ConfigError, LocalStateError, MissingExtraError
from ftpipe.registry.migrations import migrate, require_current
from ftpipe.registry.tables import APPLICATION_ID
from ftpipe.sqlite_connection import connect_read_only


@contextlib.contextmanager
def translated_errors(engine: sa.Engine) -> Iterator[None]:
    """Turn errors of the database into a ``LocalStateError`` that says what to do."""
    try:
        yield
    except exc.DBAPIError as error:
        raise _to_state_error(engine, error) from error


def _to_state_error(engine: sa.Engine, error: exc.DBAPIError) -> LocalStateError:
    message, path = " ".join(str(error.orig).split()), str(engine.url.database)
    if engine.dialect.name != "sqlite":
        return LocalStateError(
            f"the registry's database reports an error: {message}",
            "is PostgreSQL running, and is the URL right? `ftpipe resume` continues from the last committed step",
        )
    if "full" in message or "disk I/O" in message:
        return LocalStateError(f"cannot write to {path}: {message}", "free some disk space, then `ftpipe resume`")
    if "readonly" in message or "unable to open" in message:
        return LocalStateError(
            f"cannot write to {path}: {message}",
            "check the folder's permissions, or set FTPIPE_REGISTRY to another path",
        )
    if "locked" in message or "busy" in message:
        return LocalStateError(
            f"{path} is locked by another program: {message}", "close that program, then `ftpipe resume`"
        )
    return damaged(engine, message)


def damaged(engine: sa.Engine, reason: str) -> LocalStateError:
    """The error for a damaged database."""
    return LocalStateError(
        f"the registry {engine.url.database} is damaged: {reason}",
        "`ftpipe doctor --repair` renames it and rebuilds it from its mirror and the endpoint's jobs",
    )


BUSY_TIMEOUT_MS = 30_000
_KERNEL_TYPES = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "ncpfs", "ceph", "lustre", "beegfs", "gpfs")
_FUSE_TYPES = ("sshfs", "glusterfs", "ceph", "s3fs", "rclone", "gcsfuse", "goofys", "davfs", "nfs")
NETWORK_FILE_SYSTEMS = frozenset((*_KERNEL_TYPES, *(f"fuse.{name}" for name in _FUSE_TYPES)))
"""SQLite's write-ahead log needs shared memory, which these do not offer. Source: sqlite.org/wal.html, 2026-11."""
MAX_CONNECT_ATTEMPTS = 8
POSTGRES_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")


def open_engine(url: str) -> sa.Engine:
    """Open a database and bring its tables up to date.

    Args:
        url: A path or ``sqlite:///`` URL, or ``postgresql://`` URL.

    Raises:
        ConfigError: The URL's scheme is not one of these.
        MissingExtraError: The driver is not installed.
        LocalStateError: The database cannot be opened, is damaged, or was written by a newer ftpipe.
    """
    path = sqlite_path(url)
    engine = _open_postgres(url) if path is None else _open_sqlite(path)
    with translated_errors(engine):
        migrate(engine)
    return engine


def open_engine_read_only(url: str) -> sa.Engine:
    """Open a database as it is, and write nothing; an SQLite database that does not exist is an empty one in memory.

    Raises:
        ConfigError: The URL's scheme is not one of these.
        MissingExtraError: The driver is not installed.
        LocalStateError: The database cannot be opened, is damaged, or was written by another version of ftpipe.
    """
    path = sqlite_path(url)
    engine = _open_postgres(url, read_only=True) if path is None else _open_sqlite_read_only(path)
    with translated_errors(engine):
        require_current(engine)
    return engine


def sqlite_path(url: str) -> Path | None:
    """The path of an SQLite database; ``None`` for PostgreSQL.

    Raises:
        ConfigError: The URL's scheme is not one of these.
    """
    scheme = url.split("://", 1)[0] if "://" in url else "sqlite"
    if scheme in POSTGRES_SCHEMES:
        return None
    if scheme != "sqlite":
        raise ConfigError(f"a registry cannot be a {scheme}:// database", "give a path, sqlite:///… or postgresql://…")
    return Path(url.removeprefix("sqlite:///"))


_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+", re.IGNORECASE | re.ASCII)
_PARAMETERS = {"application_name": r".*", "connect_timeout": r"\d+", "sslmode": r"require|verify-ca|verify-full"}
"""Parameters of a URL that cannot lead to another server or to a weaker connection, with their values."""


def server_origin(url: str) -> str:
    """Scheme, host and port of a database server; empty for SQLite, and for the default server of the environment.

    Raises:
        ConfigError: The URL can lead to another server than the one that it shows.
    """
    if url.split("://", 1)[0] not in POSTGRES_SCHEMES:
        return ""
    try:
        parts = sa.make_url("postgresql://" + url.split("://", 1)[1])
    except (exc.ArgumentError, ValueError):
        parts = None
    if (
        parts is None
        or (parts.host and not _HOST.fullmatch(parts.host))
        or not all(
            name in _PARAMETERS and isinstance(value, str) and re.fullmatch(_PARAMETERS[name], value)
            for name, value in parts.query.items()
        )
    ):
        raise ConfigError(
            "the registry's URL can lead to another server than the one that it shows",
            "write it as postgresql://user@host:5432/database, or set it in the environment: FTPIPE_REGISTRY",
        )
    if not parts.host:
        return ""
    host = f"[{parts.host}]" if ":" in parts.host else parts.host
    return f"postgresql://{host.lower()}" + (f":{parts.port}" if parts.port not in (None, 5432) else "")


def _open_sqlite(path: Path) -> sa.Engine:
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise LocalStateError(
            f"cannot create the state folder {folder}: {error.strerror}",
            "run ftpipe in a folder that you can write to, or set FTPIPE_REGISTRY to another path",
        ) from error
    kind = filesystem_of(folder)
    if kind in NETWORK_FILE_SYSTEMS:
        raise LocalStateError(
            f"{folder} is on a network file system ({kind}), and SQLite is not safe there",
            "set FTPIPE_REGISTRY to a local path, or use PostgreSQL: FTPIPE_REGISTRY=postgresql://…",
        )
    _create_private_file(path)
    engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver
        for pragma in (
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            "synchronous=FULL",
            "fullfsync=ON",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")
        _use_wal(connection)

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # a deferred transaction that turns into a write is refused at once if there is another writer
        reads = connection.get_execution_options().get("ftpipe_reads", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    with translated_errors(engine):
        if check_sqlite(engine) == 0:
            with engine.begin() as connection:
                connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
    with contextlib.suppress(OSError):
        path.chmod(0o600)
    return engine


def _open_sqlite_read_only(path: Path) -> sa.Engine:
    _refuse_links(path)
    if not path.exists():
        empty = sa.create_engine(f"sqlite:///{path}", creator=_connect_in_memory, poolclass=sa.StaticPool)
        migrate(empty)
        return empty
    _refuse_emptied(path)
    seconds = BUSY_TIMEOUT_MS / 1000
    engine = sa.create_engine(
        f"sqlite:///{path}", creator=lambda: connect_read_only(path, timeout_seconds=seconds), poolclass=sa.NullPool
    )
    with translated_errors(engine):
        check_sqlite(engine)
    return engine


def _connect_in_memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", check_same_thread=False)


@tenacity.retry(
    retry=tenacity.retry_if_exception_message(match="database is locked"),
    wait=tenacity.wait_random(0.01, 0.1),
    stop=tenacity.stop_after_delay(BUSY_TIMEOUT_MS / 1000),
    reraise=True,
)
def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log.

    SQLite's busy timeout does not cover this pragma: while another process creates the database, it fails at once.
    """
    connection.execute("PRAGMA journal_mode=WAL")


def _create_private_file(path: Path) -> None:
    """Create the file, readable by its owner only, before anything is written; a link with its name is not followed.

    Raises:
        LocalStateError: There is a link, or an empty file although runs were made here.
    """
    _refuse_links(path)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        _refuse_emptied(path)
    except OSError as error:
        raise LocalStateError(
            f"cannot write to {path}: {error.strerror}",
            "check the folder's permissions and its disk, or set FTPIPE_REGISTRY to another path",
        ) from error


def _refuse_links(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        if path.with_name(path.name + suffix).is_symlink():
            raise LocalStateError(
                f"{path}{suffix} is a symbolic link, which could point anywhere",
                "set FTPIPE_REGISTRY to the real file, or remove the link",
            )


def _refuse_emptied(path: Path) -> None:
    if path.is_file() and path.stat().st_size == 0 and any((path.parent / "locks").glob("*")):
        raise LocalStateError(
            f"the registry {path} is empty, but runs were made here",
            "`ftpipe doctor --repair` renames it and rebuilds it from its mirror and the endpoint's jobs",
        )


def _open_postgres(url: str, *, read_only: bool = False) -> sa.Engine:
    url = "postgresql+psycopg://" + url.split("://", 1)[1]
    options = {"options": "-c default_transaction_read_only=on"} if read_only else {}
    try:
        return sa.create_engine(url, pool_pre_ping=True, connect_args=options)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "PostgreSQL needs psycopg, which is not installed", "pip install 'ftpipe[postgres]'"
        ) from error
    except exc.ArgumentError as error:
        raise ConfigError(
            "the registry's URL is not valid", "write it as postgresql://user@host:5432/database"
        ) from error


def check_sqlite(engine: sa.Engine) -> int:
    """Check that the file is an intact database of ftpipe, and return its application id: 0 for a new, empty file.

    Raises:
        LocalStateError: It is damaged, or it is not ftpipe's.
    """
    with engine.connect().execution_options(ftpipe_reads=True) as connection:
        verdict = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if verdict != "ok":
            raise damaged(engine, str(verdict))
        application_id = connection.exec_driver_sql("PRAGMA application_id").scalar()
        tables = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar()
        if application_id not in (0, APPLICATION_ID) or (application_id == 0 and tables):
            raise LocalStateError(
                f"{engine.url.database} is a database, but not ftpipe's",
                "choose another file: `registry` in ftpipe.toml or FTPIPE_REGISTRY",
            )
    return int(application_id)


def filesystem_of(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Name of the file system of ``folder``; empty if the platform does not report it."""
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
    """A connection; it is tried again while a PostgreSQL server restarts."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: engine.dialect.name != "sqlite" and _is_restarting(error)),
        stop=tenacity.stop_after_attempt(MAX_CONNECT_ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=0.25, max=5),
        reraise=True,
    )
    return retrying(lambda: engine.connect().execution_options(**options))


def _is_restarting(error: BaseException) -> bool:
    """Whether a server may be back soon; a wrong password or a missing database will not change."""
    if not isinstance(error, exc.OperationalError):
        return False
    message = str(error.orig)
    return not any(word in message for word in ("authentication failed", "does not exist", "no pg_hba.conf entry"))


def database_location(engine: sa.Engine) -> str:
    """URL of a database, without a password."""
    return engine.url.render_as_string(hide_password=True)


@contextlib.contextmanager
def read_transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection for reads."""
    with translated_errors(engine), _connected(engine, ftpipe_reads=True) as connection:
        yield connection


@contextlib.contextmanager
def write_transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that is on disk when the block ends."""
    with translated_errors(engine), _connected(engine) as connection, connection.begin():
        yield connection


@contextlib.contextmanager
def advisory_lock(engine: sa.Engine, number: int, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock of a PostgreSQL server; it is released when the connection ends, for whatever reason."""
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
            with contextlib.suppress(exc.DBAPIError):  # a server that has restarted has released it
                connection.execute(sa.select(sa.func.pg_advisory_unlock(number)))
