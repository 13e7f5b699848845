"""The JSON output of the command line: a versioned envelope, finite numbers, no control characters."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftpipe.errors import (
    ConnectionFailedError,
    FtpipeError,
    LockedError,
    ProviderError,
    RateLimitError,
    StillRunningError,
)
from ftpipe.records import Record

_RETRYABLE = (ConnectionFailedError, RateLimitError, LockedError, StillRunningError)


def envelope(
    command: str, fields: Mapping[str, Any], error: FtpipeError | None = None, *, ok: bool = True
) -> dict[str, Any]:
    """One document: schema, ``ok``, the fields of the command, and the error if there is one.

    Args:
        command: Dotted name, for example ``models.list``.
        fields: Results of the command, also if it failed.
        error: Why the command failed.
        ok: False for a negative result that is not an error.
    """
    document: dict[str, Any] = {"schema": f"ftpipe.{command}/1", "ok": ok and error is None, **fields}
    if error is not None:
        document["error"] = error_object(error)
    return document


def error_object(error: FtpipeError) -> dict[str, Any]:
    """An error as data: code, message, hint, whether a retry can succeed, and whether money was spent."""
    retryable = isinstance(error, _RETRYABLE) or type(error) is ProviderError
    return {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "retryable": retryable,
        "paid": error.paid,
    }


def dump(document: Mapping[str, Any], *, indent: int | None = 2) -> str:
    """The document as ASCII JSON; non-finite numbers become null."""
    return json.dumps(plain_data(document), indent=indent, ensure_ascii=True, allow_nan=False)


def plain_data(value: object) -> object:
    """Convert records, paths, dates, tuples and non-finite numbers to JSON values."""
    if isinstance(value, Mapping):
        return {str(key): plain_data(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_data(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, Record):
        return plain_data(value.model_dump(mode="json"))
    return value
