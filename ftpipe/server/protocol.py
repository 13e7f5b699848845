"""Requests and results as handlers see them, without HTTP, and errors in OpenAI's format."""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from ftpipe.errors import FtpipeError
from ftpipe.inference.request import Priority
from ftpipe.server.cancellation import CancelToken

ID_ALPHABET = string.ascii_letters + string.digits
ID_LENGTH = 24
MAX_JSON_DEPTH = 100
"""Levels of lists and objects in a request; Python's own limits on recursion are not reached below it."""

MAX_JSON_KEYS = 200_000
"""Keys of all objects of a request together. 1.4 million unknown parameters, which fit into 16 MB, took 1.2 GB and six
seconds: there is an error for each of them before the first one is reported."""


@dataclass(frozen=True, slots=True)
class ReceivedUpload:
    """The file of a multipart form; it is on disk already, under a temporary name."""

    path: Path
    filename: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request whose key and body have been checked."""

    owner: str
    """The owner of the API key; ``local`` if the server needs no keys."""
    path_params: Mapping[str, str] = field(default_factory=dict)
    query_params: Mapping[str, str] = field(default_factory=dict)
    """Of a repeated parameter the last one."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """The JSON object, or the text fields of a form."""
    file: ReceivedUpload | None = None
    cancel_token: CancelToken = field(default_factory=CancelToken)
    """Cancelled when the client disconnects or the server stops."""
    alias: str | None = None
    """The model's name that the client sent, if a route of the server's owner led to the one in the body."""
    is_mirrored: bool = False
    """True for a chat that the server itself sends to compare two models."""
    priority: Priority = "interactive"
    """``batch`` if nobody waits for the answer."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A response whose pieces are computed one after the other while it is sent."""

    pieces: Iterator[str | bytes]
    media_type: str = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Download:
    """A response that is a file."""

    path: Path
    filename: str


DONE_EVENT = "data: [DONE]\n\n"
"""The last event of a streamed answer."""

Handler = Callable[..., Mapping[str, Any] | Stream | Download]
"""Takes an ``ApiRequest``, and a ``Transaction`` if its route says so; a mapping is sent as JSON."""


class ApiError(FtpipeError):
    """An error response, with HTTP status and OpenAI's four fields.

    Args:
        status: HTTP status.
        message: Sentence for the client.
        code: Stable word, or ``None``.
        param: Name of the wrong parameter, or ``None``.
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


def data_event(value: Mapping[str, Any]) -> str:
    """The server-sent event with this JSON."""
    return f"data: {json.dumps(value, ensure_ascii=False, allow_nan=False)}\n\n"


def bad_request(message: str, param: str | None = None, code: str | None = "invalid_value") -> ApiError:
    """A 400 about one parameter."""
    return ApiError(400, message, code, param)


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401  # any JSON value
    """The value of a client's JSON.

    Raises:
        ValueError: It is not JSON, nested deeper than ``MAX_JSON_DEPTH``, or has more than ``MAX_JSON_KEYS`` keys.
    """
    value = orjson.loads(text)
    level, keys = [value] if type(value) in (dict, list) else [], 0
    for _ in range(MAX_JSON_DEPTH):
        keys += sum(len(one) for one in level if type(one) is dict)
        if keys > MAX_JSON_KEYS:
            message = f"its objects have more than {MAX_JSON_KEYS} keys together"
            raise ValueError(message)
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) in (dict, list)
        ]
    if level:
        message = f"it is nested deeper than {MAX_JSON_DEPTH} levels"
        raise ValueError(message)
    return value


def missing_parameter(param: str) -> ApiError:
    """The 400 for a required parameter that was not sent."""
    return bad_request(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def not_found(what: str, name: str, param: str | None = "id", code: str | None = None) -> ApiError:
    """A 404 about something that this owner does not have."""
    return ApiError(404, f"No such {what}: {printable(name)}", code, param)


def model_not_found(name: str) -> ApiError:
    """The 404 for an unknown model, with the code that clients look for."""
    what = "model"
    return not_found(what, name, "model", "model_not_found")


def model_unavailable(exc: FtpipeError) -> ApiError:
    """The 503 for a model that cannot be loaded or cannot answer."""
    error = ApiError(503, f"The model cannot answer: {exc.message}", "model_unavailable", "model", "server_error")
    error.retry_after = exc.retry_after
    return error


def server_is_stopping() -> ApiError:
    """The error of a request that a stopping server ends."""
    return ApiError(503, "The server is stopping.", "server_stopping", None, "server_error")


def storage_unavailable() -> ApiError:
    """The 503 for a database or folder that cannot be used, for example because the disk is full."""
    message = "The server cannot use its storage at the moment."
    return ApiError(503, message, "storage_unavailable", None, "server_error")


def printable(text: str, max_length: int = 100) -> str:
    """A client's text for use in a message: printable, and not longer than ``max_length``."""
    clean = "".join(char if char.isprintable() else "?" for char in text)
    return clean if len(clean) <= max_length else clean[: max_length - 1] + "…"


def new_id(prefix: str) -> str:
    """A new identifier of 24 random characters, for example ``file-4Zk…``."""
    return prefix + "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LENGTH))


def int_query_param(request: ApiRequest, name: str, default: int, *, maximum: int) -> int:
    """An integer query parameter between 0 and ``maximum``.

    Raises:
        ApiError: 400 if it is not such a number.
    """
    value = request.query_params.get(name)
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
    value = request.query_params.get(name, allowed[0])
    if value not in allowed:
        message = f"Invalid '{name}': expected one of {', '.join(allowed)}, got '{printable(value)}'."
        raise bad_request(message, name)
    return value


def metadata_filter(request: ApiRequest) -> tuple[dict[str, str], bool]:
    """The ``metadata[key]=value`` pairs of a query, and whether ``metadata=null`` selects what has no metadata.

    Raises:
        ApiError: 400 for both at once, or for another value.
    """
    metadata = {
        name[len("metadata[") : -1]: value
        for name, value in request.query_params.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    plain = request.query_params.get("metadata")
    if plain is not None and (plain != "null" or metadata):
        message = "Invalid 'metadata': use metadata[key]=value, or metadata=null alone."
        raise bad_request(message, "metadata")
    return metadata, plain is not None
