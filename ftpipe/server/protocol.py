"""What goes over the wire: requests as handlers see them, answers, and errors in OpenAI's shape."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftpipe.errors import FtpipeError

ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class ReceivedUpload:
    """A file of a multipart form that is on disk already, under a temporary name."""

    path: Path
    filename: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request, freed from HTTP."""

    owner: str
    """Whose key it came with; ``local`` where no keys are asked for."""
    path: Mapping[str, str] = field(default_factory=dict)
    """The path's parameters."""
    query: Mapping[str, str] = field(default_factory=dict)
    """Query parameters; of a repeated one the last."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """JSON object, or the text fields of a form."""
    file: ReceivedUpload | None = None


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """What a handler gives back: exactly one of ``body``, ``events``, ``text`` and ``download``."""

    body: Mapping[str, Any] | None = None
    events: Iterator[str] | None = None
    """Server-sent events, each a complete block."""
    text: Iterator[bytes] | None = None
    """A plain text body in pieces."""
    download: Path | None = None
    filename: str = "file"
    """Name for the ``download``."""
    status: int = 200
    replayed: bool = False
    """True where the answer was given before, under the same Idempotency-Key."""


class ApiError(FtpipeError):
    """An answer that is an error, with HTTP status and OpenAI's four fields.

    Args:
        status: HTTP status.
        message: Sentence for the caller.
        code: Stable word, or ``None``.
        param: Name of the offending parameter, or ``None``.
        kind: The ``type`` field.
    """

    code = "api_error"

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.args = (status, message, code, param, kind)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def bad_request(message: str, param: str | None = None, code: str | None = "invalid_value") -> ApiError:
    """A 400 about one parameter."""
    return ApiError(400, message, code, param)


def not_found(what: str, name: str, param: str | None = "id", code: str | None = None) -> ApiError:
    """A 404 about something that this owner does not have."""
    return ApiError(404, f"No such {what}: {printable(name)}", code, param)


def printable(text: str, max_length: int = 100) -> str:
    """A client's text for use in a message: printable, and not longer than ``max_length``."""
    clean = "".join(char if char.isprintable() else "?" for char in text)
    return clean if len(clean) <= max_length else clean[: max_length - 1] + "…"


def new_id(prefix: str) -> str:
    """A fresh identifier of 24 random characters, for example ``file-4Zk…``."""
    return prefix + "".join(secrets.choice(ALPHABET) for _ in range(24))


def int_query_param(request: ApiRequest, name: str, default: int, *, maximum: int) -> int:
    """An integer query parameter between 0 and ``maximum``.

    Raises:
        ApiError: 400 where it is no such number.
    """
    value = request.query.get(name)
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and len(value) <= 9 and int(value) <= maximum):
        message = f"Invalid '{name}': expected an integer from 0 to {maximum}, got '{printable(value)}'."
        raise bad_request(message, name)
    return int(value)


def enum_query_param(request: ApiRequest, name: str, allowed: tuple[str, ...]) -> str:
    """A query parameter from a closed list, whose first word is the default.

    Raises:
        ApiError: 400 for another word.
    """
    value = request.query.get(name, allowed[0])
    if value not in allowed:
        message = f"Invalid '{name}': expected one of {', '.join(allowed)}, got '{printable(value)}'."
        raise bad_request(message, name)
    return value


def metadata_filter(request: ApiRequest) -> tuple[dict[str, str], bool]:
    """The ``metadata[k]=v`` pairs of a query, and whether ``metadata=null`` asks for things without any.

    Raises:
        ApiError: 400 for both at once, or another form.
    """
    metadata = {
        name[len("metadata[") : -1]: value
        for name, value in request.query.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    plain = request.query.get("metadata")
    if plain is not None and (plain != "null" or metadata):
        message = "Invalid 'metadata': use metadata[key]=value, or metadata=null alone."
        raise bad_request(message, "metadata")
    return metadata, plain is not None


Handler = Callable[..., ApiResponse | Mapping[str, Any]]
"""Takes an ``ApiRequest`` (and a ``Transaction`` where its route says so)."""
