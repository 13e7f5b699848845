"""Numbered migrations: they create the tables and bring the database of an older ftpipe up to date."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from ftpipe.errors import LocalStateError
from ftpipe.registry.tables import APPLICATION_ID, metadata, version_table

Migration = Callable[[sa.Connection], None]


def _create_tables(connection: sa.Connection) -> None:
    metadata.create_all(connection)


MIGRATIONS: tuple[Migration, ...] = (_create_tables,)
"""Version 1, 2, …: applied in order, each in one transaction with its record. Released ones are never edited.

The first creates the tables as ``tables.py`` has them today; so each later one has to accept what is there already.
"""


def migrate(engine: sa.Engine, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Apply the migrations that are missing; an older SQLite database is backed up beside itself before.

    Raises:
        LocalStateError: The database was written by a newer ftpipe.
    """
    version = _known_version(engine, migrations)
    if version == len(migrations):
        return
    if version and engine.dialect.name == "sqlite":
        _back_up(Path(str(engine.url.database)), version)
    for number in range(version + 1, len(migrations) + 1):
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":  # SQLite's write transactions are serialized already
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(APPLICATION_ID)))
            version_table.create(connection, checkfirst=True)
            if schema_version(connection) < number:
                migrations[number - 1](connection)
                applied_at = datetime.now(UTC).isoformat(timespec="seconds")
                connection.execute(version_table.insert().values(number=number, applied_at=applied_at))


def require_current(engine: sa.Engine, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Refuse a database that would have to be changed before it can be read.

    Raises:
        LocalStateError: It has no tables yet, or another version of ftpipe wrote it.
    """
    version = _known_version(engine, migrations)
    if version < len(migrations):
        what = f"has schema version {version} of {len(migrations)}" if version else "has no tables yet"
        raise LocalStateError(f"the registry {what}", "run `ftpipe models list`, which brings it up to date")


def _known_version(engine: sa.Engine, migrations: Sequence[Migration]) -> int:
    with engine.connect().execution_options(ftpipe_reads=True) as connection:
        version = schema_version(connection)
    if version > len(migrations):
        raise LocalStateError(
            f"the registry has schema version {version}, and this ftpipe knows version {len(migrations)}",
            "upgrade ftpipe: pip install -U ftpipe",
        )
    return version


def schema_version(connection: sa.Connection) -> int:
    """The number of the last migration that was applied; 0 for an empty database."""
    if not sa.inspect(connection).has_table(version_table.name):
        return 0
    return connection.execute(sa.select(sa.func.max(version_table.c.number))).scalar() or 0


def _back_up(path: Path, version: int) -> None:
    target = path.with_name(f"{path.name}.v{version}.backup")
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
