"""Rebuild a lost or damaged SQLite database from the mirror of its audit log and from its intact rows."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from ftpipe.canonical_json import canonical_json
from ftpipe.records import CostEstimate, Dataset, Event, Job, Model, Record, RunSpec, UploadedFile
from ftpipe.records.deployment import Deployment
from ftpipe.records.evaluation import Evaluation
from ftpipe.registry.audit_log import Entry, latest_rows
from ftpipe.registry.audit_log_mirror import mirror_path, read_mirror
from ftpipe.registry.base import insert_new
from ftpipe.registry.registry import Registry
from ftpipe.registry.tables import TABLES, UNAUDITED_TABLES

RECORD_COLUMNS: dict[str, dict[str, type[Record]]] = {
    "jobs": {"data": Job},
    "models": {"data": Model},
    "evaluations": {"data": Evaluation},
    "deployments": {"data": Deployment},
    "files": {"data": UploadedFile},
    "events": {"data": Event},
    "runs": {
        "spec": RunSpec,
        "dataset": Dataset,
        "validation": Dataset,
        "cost": CostEstimate,
        "file": UploadedFile,
        "validation_file": UploadedFile,
    },
}
"""Columns that hold records; a row whose record does not parse is left out."""
REQUIRED_COLUMNS = frozenset({"data", "spec"})
MAX_UNREADABLE_ROWS = 64
"""Row numbers that are tried one by one after a page that cannot be read."""


def recover(path: Path, registry: Registry) -> dict[str, int]:
    """Copy the intact rows of a damaged database; rows that the new one has already stay as they are.

    Args:
        path: The damaged file, which is only read.
        registry: The new registry.

    Returns:
        Table → rows that were copied.
    """
    return _restore(registry, "recovered from a damaged database", lambda table: list(_readable(path, table.name)))


def replay(registry: Registry) -> dict[str, int]:
    """Copy the rows of the audit log's mirror; rows that the registry has already stay as they are.

    Entries that were changed since they were written are left out.

    Returns:
        Table → rows that were copied.
    """
    path = mirror_path(registry.engine)
    lines = read_mirror(path) if path is not None else iter(())
    state = latest_rows(entry for entry in map(_to_entry, lines) if entry is not None and entry.is_intact)
    by_table: dict[str, list[dict[str, Any]]] = {}
    for (table, _key), row in state.items():
        by_table.setdefault(table, []).extend([row] if row else [])
    return _restore(registry, "rebuilt from the mirror of the audit log", lambda table: by_table.get(table.name, []))


def _to_entry(line: dict[str, Any]) -> Entry | None:
    try:
        return Entry(**{**line, "data": canonical_json(line["data"]).decode()})
    except ValidationError:
        return None


def _restore(registry: Registry, what: str, rows_of: Callable[[sa.Table], list[dict[str, Any]]]) -> dict[str, int]:
    copied: dict[str, int] = {}
    for table in TABLES:
        rows = rows_of(table)
        columns = set(table.columns.keys())
        with registry.runs.audited_transaction(what) as change:
            for row in rows:
                values = {name: value for name, value in row.items() if name in columns}
                if _is_intact(table.name, values) and insert_new(change.connection, table, values):
                    copied[table.name] = copied.get(table.name, 0) + 1
            if table.name in copied and table.name not in UNAUDITED_TABLES:
                change.track(table)
    return copied


def _readable(path: Path, table: str) -> Iterator[dict[str, Any]]:
    """Every row that SQLite can still read, one by one, going on after the pages that it cannot read."""
    rowid, failures = 0, 0
    while failures < MAX_UNREADABLE_ROWS:
        try:
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
                database.row_factory = sqlite3.Row
                query = f"SELECT rowid AS _rowid, * FROM {table} WHERE rowid > ? ORDER BY rowid"  # noqa: S608  # names from TABLES
                for row in database.execute(query, (rowid,)):
                    rowid, failures = int(row["_rowid"]), 0
                    yield dict(row)
            return
        except (sqlite3.Error, UnicodeDecodeError, OverflowError):
            rowid, failures = rowid + 1, failures + 1


def _is_intact(table: str, values: dict[str, Any]) -> bool:
    for column, kind in RECORD_COLUMNS.get(table, {}).items():
        text = values.get(column)
        if text is None and column not in REQUIRED_COLUMNS:
            continue
        try:
            kind.model_validate_json(text)  # type: ignore[arg-type]  # whatever the file holds is tried
        except (ValidationError, TypeError):
            return False
    return True
