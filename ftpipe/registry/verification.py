"""Compare the registry's rows with its audit log, and the audit log with its own chain and its mirror."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from ftpipe.canonical_json import canonical_json
from ftpipe.records import Record
from ftpipe.registry.audit_log import GENESIS, Entry, RowKey, latest_rows, primary_key, read_entries
from ftpipe.registry.audit_log_mirror import mirror_path, read_mirror
from ftpipe.registry.database import read_transaction
from ftpipe.registry.tables import TABLES, UNAUDITED_TABLES, audit_log_table


class IntegrityViolation(Record):
    """A row or an entry that is not what ftpipe wrote."""

    table: str
    """``audit_log``, or the table of the row."""
    key: tuple[str, ...]
    """The row's primary key; the number of an entry."""
    text: str
    """What is wrong with it."""


def verify_registry(engine: sa.Engine) -> Iterator[IntegrityViolation]:
    """Every row and entry that another program has changed, entries of the audit log first."""
    with read_transaction(engine) as connection:
        entries = list(read_entries(connection))
        broken = list(_check_chain(entries))
        yield from broken
        path = mirror_path(engine)
        if path is not None and not broken:
            yield from _compare_with_mirror(entries, list(read_mirror(path)))
        state = latest_rows(entry for entry in entries if entry.is_intact)
        for table in TABLES:
            if table.name not in UNAUDITED_TABLES:
                yield from _check_rows(connection, table, state)


def _check_chain(entries: list[Entry]) -> Iterator[IntegrityViolation]:
    """Entries that are missing, were changed, or do not follow the one before."""
    number, previous = 0, GENESIS
    for entry in entries:
        for missing in range(number + 1, entry.number):
            yield _entry_violation(missing, "is missing")
        if not entry.is_intact:
            yield _entry_violation(entry.number, f"was changed{_description(entry.data)}")
        elif entry.number == number + 1 and entry.previous != previous:
            yield _entry_violation(entry.number, f"does not follow the one before it{_description(entry.data)}")
        number, previous = entry.number, entry.sha256


def _compare_with_mirror(entries: list[Entry], mirror: list[dict[str, Any]]) -> Iterator[IntegrityViolation]:
    """Entries of the mirror that the log lacks: a log that was cut or computed again is consistent in itself."""
    start = max((index for index, line in enumerate(mirror) if line["number"] == 1), default=0)
    digests = {entry.number: entry.sha256 for entry in entries}
    for line in mirror[start:]:
        sha256 = digests.get(line["number"])
        if sha256 != line["sha256"]:
            text = "is in the mirror but not in the database" if sha256 is None else "differs from the mirror"
            yield _entry_violation(line["number"], text)


def _entry_violation(number: int, text: str) -> IntegrityViolation:
    return IntegrityViolation(table=audit_log_table.name, key=(str(number),), text=f"entry {number} {text}")


def _description(data: str) -> str:
    try:
        what = json.loads(data)["what"]
    except (ValueError, TypeError, KeyError):
        return ""
    return f" ({what})"


def _check_rows(
    connection: sa.Connection, table: sa.Table, state: dict[RowKey, dict[str, Any] | None]
) -> Iterator[IntegrityViolation]:
    """The rows of a table that are not as the last entry about them says."""
    order = [column.asc() for column in table.primary_key]
    stored = {
        primary_key(table, dict(row)): dict(row)
        for row in connection.execute(sa.select(table).order_by(*order)).mappings()
    }
    logged = {key: row for (name, key), row in state.items() if name == table.name and row is not None}
    for key, row in stored.items():
        if key not in logged:
            yield _row_violation(table, key, "was added by another program")
        elif changed := _differences(logged[key], row):
            yield _row_violation(table, key, f"was changed by another program: {', '.join(changed)}")
    for key in logged:
        if key not in stored:
            yield _row_violation(table, key, "was removed by another program")


def _row_violation(table: sa.Table, key: tuple[Any, ...], text: str) -> IntegrityViolation:
    names = tuple(str(part) for part in key)
    return IntegrityViolation(table=table.name, key=names, text=f"{table.name} {' '.join(names)} {text}")


def _differences(logged: dict[str, Any], stored: dict[str, Any]) -> list[str]:
    """Columns that differ; of a column that holds a record, its fields."""
    changed: list[str] = []
    for name, value in logged.items():
        if canonical_json(value) != canonical_json(stored.get(name)):
            fields = _fields(value, stored.get(name))
            changed += [f"{name}.{field}" for field in fields] or [name]
    return changed


def _fields(logged: object, stored: object) -> list[str]:
    try:
        left, right = json.loads(str(logged)), json.loads(str(stored))
    except ValueError:
        return []
    if not isinstance(left, dict) or not isinstance(right, dict):
        return []
    return sorted(name for name in {*left, *right} if left.get(name) != right.get(name))
