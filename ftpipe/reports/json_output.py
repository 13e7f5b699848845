"""The JSON documents of the command line: one versioned envelope, finite numbers, nothing that a terminal obeys."""

from __future__ import annotations

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
    """One document: schema, whether all is well, what was found, and the error if there is one.

    Args:
        command: Name with dots, for example ``models.list``.
        fields: What the command found, also where it ended in an error.
        error: Why it did not end well.
        ok: False where the answer is no without being an error.
    """
    document: dict[str, Any] = {"schema": f"ftpipe.{command}/1", "ok": ok and error is None, **fields}
    if error is not None:
        document["error"] = error_object(error)
    return document


def error_object(error: FtpipeError) -> dict[str, Any]:
    """An error as data: code, message, hint, whether the same call may pass later, and whether money may be gone."""
    retryable = isinstance(error, _RETRYABLE) or type(error) is ProviderError
    return {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "retryable": retryable,
        "paid": error.paid,
    }


def dump(document: Mapping[str, Any], *, indent: int | None = 2) -> str:
    """The document as ASCII JSON; numbers that are not finite become null."""
    return json.dumps(plain_data(document), indent=indent, ensure_ascii=True, allow_nan=False)


def plain_data(value: object) -> object:
    """Records, paths and tuples as what JSON has."""
    if isinstance(value, Mapping):
        return {str(key): plain_data(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_data(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Record):
        return plain_data(value.model_dump(mode="json"))
    return value
