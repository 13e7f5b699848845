"""Salvage: the rows of a damaged SQLite database that can still be read go into a new one."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ftpipe.records import CostEstimate, Dataset, Event, Job, Model, Record, RunSpec, UploadedFile
from ftpipe.records.evaluation import Evaluation
from ftpipe.registry import schema
from ftpipe.registry.connect import writing
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


def salvage(aside: Path, registry: RunRecords) -> dict[str, int]:
    """Copy what is whole from a damaged database; rows that the new one has already stay as they are.

    Args:
        aside: The damaged file, which is only read.
        registry: The new registry.

    Returns:
        Table → rows that were copied.
    """
    copied: dict[str, int] = {}
    for table in schema.TABLES:
        rows = list(_readable(aside, table.name))
        known = set(table.columns.keys())
        with writing(registry.engine) as connection:
            for row in rows:
                values = {name: value for name, value in row.items() if name in known}
                if _is_whole(table.name, values):
                    registry.insert_new(connection, table, values)
                    copied[table.name] = copied.get(table.name, 0) + 1
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
