"""Salvage: what the ledger's copy and the whole rows of a damaged SQLite database still tell goes into a new one."""

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
from ftpipe.records.evaluation import Evaluation
from ftpipe.registry import tables
from ftpipe.registry.audit_log import Entry, latest
from ftpipe.registry.audit_log_mirror import mirror_path, read_copy
from ftpipe.registry.runs import RunRecords

RECORDS: dict[str, dict[str, type[Record]]] = {
    "jobs": {"data": Job},
    "models": {"data": Model},
    "evaluations": {"data": Evaluation},
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
"""Columns that hold records; a row whose record does not parse is left behind."""
GAP = 64
"""How many row numbers are tried one by one behind a place that cannot be read."""


def recover(aside: Path, registry: RunRecords) -> dict[str, int]:
    """Copy what is whole from a damaged database; rows that the new one has already stay as they are.

    Args:
        aside: The damaged file, which is only read.
        registry: The new registry.

    Returns:
        Table → rows that were copied.
    """
    return _restore(registry, "salvaged from a damaged database", lambda table: list(_readable(aside, table.name)))


def replay(registry: RunRecords) -> dict[str, int]:
    """Take what the copy of the ledger tells; rows that the registry has already stay as they are.

    Entries that were changed since they were written are left out.

    Returns:
        Table → rows that were taken.
    """
    path = mirror_path(registry.engine)
    lines = read_copy(path) if path is not None else iter(())
    state = latest(entry for entry in map(_entry, lines) if entry is not None and entry.is_whole)
    by_table: dict[str, list[dict[str, Any]]] = {}
    for (table, _key), row in state.items():
        by_table.setdefault(table, []).extend([row] if row else [])
    return _restore(registry, "rebuilt from the copy of the ledger", lambda table: by_table.get(table.name, []))


def _entry(line: dict[str, Any]) -> Entry | None:
    try:
        return Entry(**{**line, "data": canonical_json(line["data"]).decode()})
    except ValidationError:
        return None


def _restore(registry: RunRecords, what: str, rows_of: Callable[[sa.Table], list[dict[str, Any]]]) -> dict[str, int]:
    copied: dict[str, int] = {}
    for table in tables.TABLES:
        rows = rows_of(table)
        known = set(table.columns.keys())
        with registry.changing(what) as change:
            for row in rows:
                values = {name: value for name, value in row.items() if name in known}
                if _is_whole(table.name, values) and registry.insert_new(change.connection, table, values):
                    copied[table.name] = copied.get(table.name, 0) + 1
            if table.name in copied and table.name not in tables.UNAUDITED_TABLES:
                change.track(table)
    return copied


def _readable(aside: Path, table: str) -> Iterator[dict[str, Any]]:
    """Every row that SQLite can still hand over, one by one, going on behind the places that it cannot read."""
    place, misses = 0, 0
    while misses < GAP:
        try:
            with contextlib.closing(sqlite3.connect(f"file:{aside}?mode=ro", uri=True)) as database:
                database.row_factory = sqlite3.Row
                query = f"SELECT rowid AS _rowid, * FROM {table} WHERE rowid > ? ORDER BY rowid"  # noqa: S608 - our own table names
                for row in database.execute(query, (place,)):
                    place, misses = int(row["_rowid"]), 0
                    yield dict(row)
            return
        except (sqlite3.Error, UnicodeDecodeError, OverflowError):
            place, misses = place + 1, misses + 1


def _is_whole(table: str, values: dict[str, Any]) -> bool:
    for column, kind in RECORDS.get(table, {}).items():
        text = values.get(column)
        if text is None and column != "data" and column != "spec":
            continue
        try:
            kind.model_validate_json(text)  # type: ignore[arg-type]  # whatever the file holds is tried
        except (ValidationError, TypeError):
            return False
    return True
