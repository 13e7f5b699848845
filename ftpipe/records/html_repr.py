"""A record as HTML for notebooks: a table of its fields, with every text escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ftpipe.formatting import format_time, sanitize_line

MAX_ROWS = 20
"""Rows shown of a list of records, and entries of any other list."""
MAX_CHARACTERS = 300
DIGEST_CHARACTERS = 12
"""Characters of a digest that are shown."""
_TABLE = "border-collapse:collapse;font-size:90%;margin:.2em 0"
_CELL = "text-align:left;vertical-align:top;padding:.15em .8em .15em 0;white-space:pre-wrap;max-width:60em"


def html_of(record: BaseModel) -> str:
    """A record as HTML without scripts, links or outside resources.

    Args:
        record: Any record; empty fields are left out.
    """
    return f'<div class="ftpipe"><b>{escape(type(record).__name__)}</b>{_record(record)}</div>'


def _record(record: BaseModel) -> str:
    # lists of records are long, so the other fields come first
    fields = sorted(_non_empty(record), key=lambda field: isinstance(field[1], tuple))
    return _table([_row("th", name, value) for name, value in fields])


def _non_empty(record: BaseModel) -> Iterator[tuple[str, Any]]:
    for name in type(record).model_fields:
        value = getattr(record, name)
        if value is not None and value != "" and value != () and value != {}:
            yield name, value


def _row(kind: str, name: str, value: object) -> str:
    return f'<tr><{kind} style="{_CELL}">{_text(name)}</{kind}><td style="{_CELL}">{_value(name, value)}</td></tr>'


def _table(rows: Sequence[str]) -> str:
    return f'<table style="{_TABLE}">{"".join(rows)}</table>'


def _value(name: str, value: object) -> str:
    """A value of any type; the name of the field says whether a number is a time."""
    if isinstance(value, BaseModel):
        return _record(value)
    if isinstance(value, Mapping):
        return _truncated([_row("td", str(key), item) for key, item in value.items()], total=len(value))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if value and all(isinstance(item, BaseModel) for item in value):
            return _columns(value)
        return _truncated([f'<tr><td style="{_CELL}">{_value("", item)}</td></tr>' for item in value], total=len(value))
    if name.endswith("sha256"):
        return _text(str(value)[:DIGEST_CHARACTERS])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _text(value)
    if name.endswith("_at") and isinstance(value, int):
        return format_time(value)
    return f"{value:,}"


def _columns(records: Sequence[Any]) -> str:
    """Records of one type as rows; columns that are empty in all of them are left out."""
    shown = [dict(_non_empty(record)) for record in records[:MAX_ROWS]]
    names = [name for name in type(records[0]).model_fields if any(name in row for row in shown)]
    head = "".join(f'<th style="{_CELL}">{_text(name)}</th>' for name in names)
    rows = [
        "<tr>" + "".join(f'<td style="{_CELL}">{_value(name, row.get(name, ""))}</td>' for name in names) + "</tr>"
        for row in shown
    ]
    return _truncated([f"<tr>{head}</tr>", *rows], total=len(records) + 1)


def _truncated(rows: Sequence[str], *, total: int) -> str:
    """The first rows, and the number of further ones."""
    remaining = total - len(rows[: MAX_ROWS + 1])
    more = f'<tr><td style="{_CELL}">… and {remaining:,} more</td></tr>' if remaining > 0 else ""
    return _table([*rows[: MAX_ROWS + 1], more])


def _text(value: object) -> str:
    return escape(sanitize_line(value.as_posix() if isinstance(value, Path) else value, MAX_CHARACTERS))
