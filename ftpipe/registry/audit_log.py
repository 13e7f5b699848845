"""The audit log: one entry for each transaction, chained by SHA-256 to the entry before.

::

    number  previous          data                                      sha256
    7       sha256 of 6       {"at": …, "what": …, "rows": [{…}, …]}    of number, previous and data

An entry is written in the transaction that it describes. What the chain protects against:

- Rows that are edited with another program no longer match the last entry about them.
- An entry that is edited, removed or inserted breaks the chain, unless every later entry is computed again.
- A log that was computed again as a whole, or was cut at its end, differs from the mirror (``audit_log_mirror``).

What it does not protect against: somebody who can write both the database and its mirror can replace both, because
nothing is signed. Keep a copy elsewhere if that matters. A PostgreSQL registry has no mirror.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa

from ftpipe.canonical_json import canonical_json
from ftpipe.records import Record
from ftpipe.registry.database import read_transaction
from ftpipe.registry.tables import TABLES, audit_log_table

GENESIS = "0" * 64
"""``previous`` of the first entry."""
POSTGRES_LOCK_ID = 0x66747032
"""PostgreSQL's advisory lock that lets one transaction at a time append an entry."""

RowKey = tuple[str, tuple[Any, ...]]
"""Table and primary key of a row."""


class Entry(Record):
    """One entry of the audit log."""

    number: int
    previous: str
    data: str
    """JSON: ``at`` (UTC Unix seconds), ``what``, and ``rows`` as they were at the end of the transaction."""
    sha256: str

    @property
    def is_intact(self) -> bool:
        """Whether the entry is as it was written."""
        return self.sha256 == entry_digest(self.number, self.previous, self.data)


class AuditLog:
    """The audit log of a database.

    Args:
        engine: An open database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def size(self) -> int:
        """The number of entries."""
        with read_transaction(self._engine) as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(audit_log_table)).scalar() or 0


class AuditedChange:
    """The rows that a transaction changes."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self._changed: list[tuple[sa.Table, tuple[sa.ColumnElement[bool], ...]]] = []
        self._deleted: list[dict[str, Any]] = []

    def track(self, table: sa.Table, *where: sa.ColumnElement[bool]) -> None:
        """Note rows that are written; they are read at the end of the transaction."""
        self._changed.append((table, where))

    def track_deleted(self, table: sa.Table, **key: object) -> None:
        """Note a row that is deleted."""
        self._deleted.append({"table": table.name, "deleted": key})

    def append_entry(self, what: str, at: float) -> None:
        """Write the entry, unless no row was changed."""
        rows: list[dict[str, Any]] = list(self._deleted)
        for table, where in self._changed:
            current = self.connection.execute(sa.select(table).where(*where)).mappings()
            rows += [{"table": table.name, "row": dict(row)} for row in current]
        if rows:
            _append(self.connection, {"at": at, "what": what, "rows": rows})


def _append(connection: sa.Connection, content: dict[str, Any]) -> None:
    if connection.engine.dialect.name == "postgresql":  # SQLite's write transactions are serialized already
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(POSTGRES_LOCK_ID)))
    table = audit_log_table
    newest = sa.select(table.c.number, table.c.sha256).order_by(table.c.number.desc()).limit(1)
    last = connection.execute(newest).first()
    number, previous = (last[0] + 1, last[1]) if last else (1, GENESIS)
    data = canonical_json(content).decode()
    sha256 = entry_digest(number, previous, data)
    connection.execute(table.insert().values(number=number, previous=previous, data=data, sha256=sha256))


def read_entries(connection: sa.Connection) -> Iterator[Entry]:
    """The whole audit log, oldest first."""
    for row in connection.execute(sa.select(audit_log_table).order_by(audit_log_table.c.number)).mappings():
        yield Entry(**row)


def entry_digest(number: int, previous: str, data: str) -> str:
    """The SHA-256 that chains an entry to the one before."""
    return hashlib.sha256(f"{number}\n{previous}\n{data}".encode()).hexdigest()


def primary_key(table: sa.Table, row: dict[str, Any]) -> tuple[Any, ...]:
    """The primary key of a row."""
    return tuple(row.get(column.name) for column in table.primary_key)


def latest_rows(entries: Iterable[Entry]) -> dict[RowKey, dict[str, Any] | None]:
    """Table and key → the row as the last entry about it says; ``None`` if it was deleted."""
    by_name = {table.name: table for table in TABLES}
    state: dict[RowKey, dict[str, Any] | None] = {}
    for entry in entries:
        content = json.loads(entry.data)
        for item in content.get("rows", ()) if isinstance(content, dict) else ():
            table = by_name.get(item["table"])
            if table is not None:
                row = item.get("row")
                state[table.name, primary_key(table, row or item["deleted"])] = row
    return state
