"""The ledger: what every transaction left behind, each entry chained by its SHA-256 to the one before.

::

    number  previous          data                                      sha256
    7       sha256 of 6       {"at": …, "what": …, "rows": [{…}, …]}    of number, previous and data

An entry is written in the transaction that it tells of. Rows that were edited by other means no longer match it, and
an entry that was edited no longer matches the next one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from ftpipe.canonical_json import canonical_json
from ftpipe.records import Record
from ftpipe.registry import tables

GENESIS = "0" * 64
LOCK = 0x66747032
"""PostgreSQL's advisory lock that lets entries come one after the other."""


class Entry(Record):
    """One link of the chain."""

    number: int
    previous: str
    data: str
    """JSON: ``at`` (UTC Unix seconds), ``what``, and ``rows`` as they were when the transaction ended."""
    sha256: str

    @property
    def is_whole(self) -> bool:
        """Whether the entry is as it was written."""
        return self.sha256 == digest(self.number, self.previous, self.data)


class AuditedChange:
    """The rows that a transaction touches."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self._touched: list[tuple[sa.Table, tuple[sa.ColumnElement[bool], ...]]] = []
        self._gone: list[dict[str, Any]] = []

    def track(self, table: sa.Table, *where: sa.ColumnElement[bool]) -> None:
        """Rows that were written; they are read when the transaction ends."""
        self._touched.append((table, where))

    def remove(self, table: sa.Table, **key: object) -> None:
        """A row that is gone."""
        self._gone.append({"table": table.name, "gone": key})

    def append_entry(self, what: str, at: float) -> None:
        """Write the entry; nothing where no row was touched."""
        rows: list[dict[str, Any]] = list(self._gone)
        for table, where in self._touched:
            found = self.connection.execute(sa.select(table).where(*where)).mappings()
            rows += [{"table": table.name, "row": dict(row)} for row in found]
        if rows:
            append(self.connection, {"at": at, "what": what, "rows": rows})


def append(connection: sa.Connection, content: dict[str, Any]) -> None:
    """Write the next entry within a transaction."""
    if connection.engine.dialect.name == "postgresql":  # SQLite's write transactions come one after the other already
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
    table = tables.ledger
    newest = sa.select(table.c.number, table.c.sha256).order_by(table.c.number.desc()).limit(1)
    last = connection.execute(newest).first()
    number, previous = (last[0] + 1, last[1]) if last else (1, GENESIS)
    data = canonical_json(content).decode()
    sha256 = digest(number, previous, data)
    connection.execute(table.insert().values(number=number, previous=previous, data=data, sha256=sha256))


def entries(connection: sa.Connection) -> Iterator[Entry]:
    """The whole ledger, oldest first."""
    for row in connection.execute(sa.select(tables.ledger).order_by(tables.ledger.c.number)).mappings():
        yield Entry(**row)


def digest(number: int, previous: str, data: str) -> str:
    """SHA-256 that chains an entry to the one before."""
    return hashlib.sha256(f"{number}\n{previous}\n{data}".encode()).hexdigest()


def key_of(table: sa.Table, row: dict[str, Any]) -> tuple[Any, ...]:
    """The primary key of a row, by which entries and rows are matched."""
    return tuple(row.get(column.name) for column in table.primary_key)


def latest(found: Iterator[Entry]) -> dict[tuple[str, tuple[Any, ...]], dict[str, Any] | None]:
    """Table and key → the row as the last entry left it; ``None`` where it is gone."""
    by_name = {table.name: table for table in tables.TABLES}
    state: dict[tuple[str, tuple[Any, ...]], dict[str, Any] | None] = {}
    for entry in found:
        content = json.loads(entry.data)
        for item in content.get("rows", ()) if isinstance(content, dict) else ():
            table = by_name.get(item["table"])
            if table is not None:
                row = item.get("row")
                state[table.name, key_of(table, row or item["gone"])] = row
    return state
