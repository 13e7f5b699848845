"""The numbered migrations that make the tables and bring an older database up to date."""

from __future__ import annotations

import time
from collections.abc import Callable

import sqlalchemy as sa

from ftpipe.registry.audit_log import AuditedChange
from ftpipe.registry.tables import FIRST_TABLES, TABLES, UNAUDITED_TABLES, evaluations, ledger, metadata


def _first(connection: sa.Connection) -> None:
    metadata.create_all(connection, tables=list(FIRST_TABLES))


def _second(connection: sa.Connection) -> None:
    """Runs get an order of their own, since clocks jump; a database made today has the column already."""
    if _has_column(connection, "runs", "sequence"):
        return
    connection.exec_driver_sql("ALTER TABLE runs ADD COLUMN sequence INTEGER NOT NULL DEFAULT 0")
    connection.exec_driver_sql(
        "UPDATE runs SET sequence = 1 + (SELECT count(*) FROM runs AS earlier"
        " WHERE earlier.created_at < runs.created_at"
        " OR (earlier.created_at = runs.created_at AND earlier.id < runs.id))"
    )


def _third(connection: sa.Connection) -> None:
    """Evaluations are remembered."""
    metadata.create_all(connection, tables=[evaluations])


def _fourth(connection: sa.Connection) -> None:
    """Calls remember which jobs were there before them, and a ledger begins with all that there is."""
    if not _has_column(connection, "operations", "listed_before"):
        connection.exec_driver_sql("ALTER TABLE operations ADD COLUMN listed_before TEXT")
    metadata.create_all(connection, tables=[ledger])
    change = AuditedChange(connection)
    for table in TABLES:
        if table.name not in UNAUDITED_TABLES:
            change.track(table)
    change.append_entry("the ledger begins", time.time())


def _has_column(connection: sa.Connection, table: str, column: str) -> bool:
    return column in {found["name"] for found in sa.inspect(connection).get_columns(table)}


MIGRATIONS: tuple[Callable[[sa.Connection], None], ...] = (_first, _second, _third, _fourth)
"""Applied in order, each in a transaction with its record; never edited once released."""
