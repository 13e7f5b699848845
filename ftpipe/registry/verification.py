"""The audit: whether the registry still holds what its ledger says, and the ledger what it was written with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from ftpipe.canonical_json import canonical_json
from ftpipe.records import Record
from ftpipe.registry import tables
from ftpipe.registry.audit_log import GENESIS, Entry, entries, key_of, latest
from ftpipe.registry.audit_log_mirror import mirror_path, read_copy
from ftpipe.registry.database import read_transaction


class IntegrityViolation(Record):
    """A place where the registry is not what ftpipe wrote."""

    table: str
    """``ledger``, or the table of the row."""
    key: tuple[str, ...]
    """The row's primary key; the number of an entry."""
    text: str
    """What is wrong with it."""


def audit(engine: sa.Engine) -> Iterator[IntegrityViolation]:
    """Every place that was changed by other means, the ledger's first; none where all is as ftpipe wrote it."""
    with read_transaction(engine) as connection:
        found = list(entries(connection))
        broken = list(_chain(found))
        yield from broken
        path = mirror_path(engine)
        if path is not None and not broken:
            yield from _against_copy(found, list(read_copy(path)))
        state = latest(iter([entry for entry in found if entry.is_whole]))
        for table in tables.TABLES:
            if table.name not in tables.UNAUDITED_TABLES:
                yield from _rows(connection, table, state)


def _chain(found: list[Entry]) -> Iterator[IntegrityViolation]:
    """The entries that are missing, or no longer what was written."""
    number, previous = 0, GENESIS
    for entry in found:
        for missing in range(number + 1, entry.number):
            yield _of_entry(missing, "is missing")
        if not entry.is_whole:
            yield _of_entry(entry.number, f"was changed{_told(entry.data)}")
        elif entry.number == number + 1 and entry.previous != previous:
            yield _of_entry(entry.number, f"does not follow the one before it{_told(entry.data)}")
        number, previous = entry.number, entry.sha256


def _against_copy(found: list[Entry], copied: list[dict[str, Any]]) -> Iterator[IntegrityViolation]:
    """What the copy has and the database has not: a ledger that was cut or written anew is whole in itself."""
    begins = max((index for index, line in enumerate(copied) if line["number"] == 1), default=0)
    here = {entry.number: entry.sha256 for entry in found}
    for line in copied[begins:]:
        sha256 = here.get(line["number"])
        if sha256 != line["sha256"]:
            what = "is in the copy and not here" if sha256 is None else "is not the one in the copy"
            yield _of_entry(line["number"], what)


def _of_entry(number: int, text: str) -> IntegrityViolation:
    return IntegrityViolation(table="ledger", key=(str(number),), text=f"entry {number} {text}")


def _told(data: str) -> str:
    try:
        what = json.loads(data)["what"]
    except (ValueError, TypeError, KeyError):
        return ""
    return f" ({what})"


def _rows(
    connection: sa.Connection, table: sa.Table, state: dict[tuple[str, tuple[Any, ...]], dict[str, Any] | None]
) -> Iterator[IntegrityViolation]:
    """The rows of a table that are not as the last entry about them says."""
    order = [column.asc() for column in table.primary_key]
    here = {
        key_of(table, dict(row)): dict(row) for row in connection.execute(sa.select(table).order_by(*order)).mappings()
    }
    told = {key: row for (name, key), row in state.items() if name == table.name and row is not None}
    for key, row in here.items():
        if key not in told:
            yield _of_row(table, key, "was added by other means")
        elif changed := _differences(told[key], row):
            yield _of_row(table, key, f"was changed by other means: {', '.join(changed)}")
    for key in told:
        if key not in here:
            yield _of_row(table, key, "was removed by other means")


def _of_row(table: sa.Table, key: tuple[Any, ...], text: str) -> IntegrityViolation:
    names = tuple(str(part) for part in key)
    return IntegrityViolation(table=table.name, key=names, text=f"{table.name} {' '.join(names)} {text}")


def _differences(told: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Columns that differ; of a column that holds a record, its fields."""
    changed: list[str] = []
    for name, value in told.items():
        if canonical_json(value) != canonical_json(here.get(name)):
            fields = _fields(value, here.get(name))
            changed += [f"{name}.{field}" for field in fields] or [name]
    return changed


def _fields(told: object, here: object) -> list[str]:
    try:
        left, right = json.loads(str(told)), json.loads(str(here))
    except ValueError:
        return []
    if not isinstance(left, dict) or not isinstance(right, dict):
        return []
    return sorted(name for name in {*left, *right} if left.get(name) != right.get(name))
