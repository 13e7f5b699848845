"""Finds the records in one JSON document: an array, an object around an array, or what pandas writes."""

from __future__ import annotations

import math
from typing import Any

from ftpipe.errors import DatasetError

Record = dict[str, Any]
WRAPPERS = frozenset(
    {"data", "rows", "records", "examples", "items", "results", "samples", "instances", "entries", "documents",
     "train", "training", "validation", "valid", "test", "dataset", "dialogs", "dialogues",
     "conversations", "chats", "threads"}
)  # fmt: skip
"""Keys of an object whose list is the records."""
_TURN_KEYS = frozenset({"role", "from", "speaker"})


def records_of(value: Any, file_name: str) -> list[Any] | None:  # noqa: ANN401  # any JSON value
    """The records in a document; ``None`` if it is a record itself.

    Raises:
        DatasetError: It has several lists of records, so that it is not clear which is meant.
    """
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or not value:
        return None
    return _split_or_table(value) or _by_column_or_index(value) or _lists(value) or _wrapped(value, file_name)


def _split_or_table(value: Record) -> list[Any] | None:
    """``{"columns": […], "data": [[…], …]}`` or ``{"schema": {…}, "data": [{…}, …]}``, as pandas writes them."""
    columns, data = value.get("columns"), value.get("data")
    if not isinstance(data, list):
        return None
    if value.keys() <= {"columns", "index", "data"} and isinstance(columns, list):
        if all(isinstance(row, list) and len(row) == len(columns) for row in data):
            return [dict(zip(map(str, columns), row, strict=True)) for row in data]
        return None
    schema = value.get("schema")
    if value.keys() == {"schema", "data"} and isinstance(schema, dict) and all(isinstance(row, dict) for row in data):
        keys = schema.get("primaryKey")
        index = {key for key in keys if isinstance(key, str)} if isinstance(keys, list) else set()
        return [{key: cell for key, cell in row.items() if key not in index} for row in data]
    return None


def _by_column_or_index(value: Record) -> list[Any] | None:
    """``{"prompt": {"0": …, "1": …}, …}`` or ``{"0": {"prompt": …, …}, …}``."""
    inner = list(value.values())
    if not all(isinstance(one, dict) and one for one in inner):
        return None
    keys = list(inner[0])
    if any(one.keys() != inner[0].keys() for one in inner[1:]):
        return inner if all(key.isdigit() for key in value) else None
    if all(key.isdigit() for key in keys):
        return [{column: cells[key] for column, cells in value.items()} for key in keys]
    return inner if all(key.isdigit() for key in value) else None


def _lists(value: Record) -> list[Any] | None:
    """``{"prompt": […, …], "completion": […, …]}``: a list of equal length for each column."""
    lists = list(value.values())
    if not all(isinstance(one, list) and len(one) == len(lists[0]) for one in lists) or not lists[0]:
        return None
    cells = [cell for one in lists for cell in one]
    is_column_of_lists = all(isinstance(cell, list) for cell in cells)
    if any(isinstance(cell, dict) for cell in cells) or (len(lists) < 2 and not is_column_of_lists):
        return None
    return [dict(zip(value, row, strict=True)) for row in zip(*lists, strict=True)]


def _wrapped(value: Record, file_name: str) -> list[Any] | None:
    """``{"data": [{…}, …]}`` beside facts about the file, and ``{"rows": [{"row": {…}}, …]}``."""
    lists = {
        key: items
        for key, items in value.items()
        if key.lower() in WRAPPERS
        and isinstance(items, list)
        and items
        and all(isinstance(item, dict) and not _TURN_KEYS & item.keys() for item in items)
    }
    if len(lists) > 1:
        names = ", ".join(lists)
        raise DatasetError(
            f"{file_name} has several lists of records: {names}.",
            f"Write each to a file of its own, for example: jq .{next(iter(lists))} FILE > {next(iter(lists))}.json",
        )
    items = next(iter(lists.values()), None)
    if items is not None and all(isinstance(item.get("row"), dict) for item in items):
        return [item["row"] for item in items]  # the rows API of the Hugging Face datasets server
    return items


def record_of(value: Any) -> Record | None:  # noqa: ANN401  # any JSON value
    """A row as an object: a list of turns is a conversation; ``None`` for any other value."""
    if isinstance(value, list) and value and all(isinstance(turn, dict) and _TURN_KEYS & turn.keys() for turn in value):
        return {"messages": value}
    return value if isinstance(value, dict) else None


def without_nan(record: Record) -> Record:
    """The record with ``None`` for each number that is missing, which Python and pandas write as NaN."""
    missing = [key for key, value in record.items() if isinstance(value, float) and math.isnan(value)]
    return record | dict.fromkeys(missing) if missing else record
