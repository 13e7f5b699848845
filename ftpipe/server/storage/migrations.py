"""Make the tables of a new database, and bring an older database up to date."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, text

from ftpipe.errors import LocalStateError
from ftpipe.server.storage.tables import Base

Migration = Callable[[Connection], None]

MIGRATIONS: tuple[Migration, ...] = ()
"""The first one brings a database of version 1 to version 2, and so on. A released one is never edited."""


def migrate(connection: Connection) -> None:
    """Bring the database to the version of this ftpipe; its number is SQLite's ``user_version``.

    Args:
        connection: In a write transaction, so that an interrupted migration changes nothing.

    Raises:
        LocalStateError: The database was written by a newer ftpipe.
    """
    newest = 1 + len(MIGRATIONS)
    version = connection.execute(text("PRAGMA user_version")).scalar() or 0
    if version > newest:
        message = f"the server's database has version {version}, but this ftpipe knows only {newest}"
        raise LocalStateError(message, "upgrade with `pip install -U ftpipe`, or choose another folder with --data-dir")
    if version == 0:
        Base.metadata.create_all(connection)
    else:
        for step in MIGRATIONS[version - 1 :]:
            step(connection)
    connection.execute(text(f"PRAGMA user_version={newest}"))
