"""The input file of a batch: where its requests are, and whether they can be sent.

Source: OpenAI API description, BatchRequestInput and createBatch, 2026-08-21; codes of errors: second-hand,
https://github.com/stdapi-ai/stdapi.ai/issues/240, 2026-09-10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftpipe.errors import FtpipeError
from ftpipe.server.protocol import parse_json, printable

MAX_INPUT_BYTES = 200 * 1024 * 1024
MAX_REQUESTS = 50_000
MAX_LINES = 2 * MAX_REQUESTS
"""Lines of a file, with the empty ones: 200 million line ends would be read for a minute, and again at each start."""
MAX_CUSTOM_ID_CHARACTERS = 512
MAX_ERRORS = 100
"""Errors that are reported; the file is not read further."""


@dataclass(frozen=True, slots=True)
class InputLine:
    """Where a request is in its file."""

    number: int
    """From 1; empty lines count."""
    offset: int
    bytes: int


@dataclass(frozen=True, slots=True)
class InputRequest:
    """One request."""

    custom_id: str
    body: Mapping[str, Any]


@dataclass(slots=True)
class InputReport:
    """The result of a validation."""

    model: str | None = None
    """The one model of all requests."""
    total: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    """In OpenAI's format; the batch fails if there are any."""


class InputError(FtpipeError):
    """A line is not a request."""

    code = "invalid_batch_input"

    def __init__(self, reason: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.args = (reason, message, param)
        self.reason = reason
        self.param = param


def find_lines(path: Path, *, max_line_bytes: int) -> Iterator[InputLine]:
    """The lines that are not empty; one that is too long has more than ``max_line_bytes`` and is not read whole.

    Raises:
        InputError: There are too many lines.
    """
    offset, number = 0, 0
    with path.open("rb") as file:
        while piece := file.readline(max_line_bytes + 1):
            number += 1
            if number > MAX_LINES:
                message = f"The input file has more than {MAX_LINES} lines."
                raise InputError("too_many_lines", message)
            size, is_blank = len(piece), not piece.strip()
            while not piece.endswith(b"\n") and (piece := file.readline(max_line_bytes + 1)):
                size += len(piece)
                is_blank = is_blank and not piece.strip()
            if not is_blank:
                yield InputLine(number, offset, size)
            offset += size


def read_request(path: Path, line: InputLine, endpoint: str) -> InputRequest:
    """The request in a line.

    Raises:
        InputError: It is not a request for this endpoint.
    """
    with path.open("rb") as file:
        file.seek(line.offset)
        raw = file.read(line.bytes)
    try:
        value = parse_json(raw)
    except ValueError as exc:
        message = "This line is not parseable as valid JSON."
        raise InputError("invalid_json_line", message) from exc
    if not isinstance(value, dict):
        message = "This line is not a JSON object."
        raise InputError("invalid_json_line", message)
    return _parse_request(value, endpoint)


def _parse_request(value: Mapping[str, Any], endpoint: str) -> InputRequest:
    custom_id, body = value.get("custom_id"), value.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID_CHARACTERS:
        message = f"'custom_id' must be a text of 1 to {MAX_CUSTOM_ID_CHARACTERS} characters."
        raise InputError("invalid_request", message, "custom_id")
    if value.get("method") != "POST":
        message = "'method' must be 'POST'."
        raise InputError("invalid_request", message, "method")
    url = value.get("url")
    if url != endpoint:
        shown = printable(url) if isinstance(url, str) else "missing"
        message = f"The URL of this request is {shown}, and the batch's endpoint is {endpoint}."
        raise InputError("url_mismatch", message, "url")
    if not isinstance(body, dict):
        message = "'body' must be an object."
        raise InputError("invalid_request", message, "body")
    if not isinstance(body.get("model"), str) or not body["model"]:
        message = "'body.model' must be the name of a model."
        raise InputError("invalid_request", message, "body.model")
    return InputRequest(custom_id, body)


def validate_input(
    path: Path,
    endpoint: str,
    *,
    max_line_bytes: int,
    has_model: Callable[[str], bool],
    check_cancelled: Callable[[], None],
) -> InputReport:
    """Check all requests before the first one is sent.

    Args:
        path: The file.
        endpoint: The batch's endpoint, which all requests must name.
        max_line_bytes: Maximum size of a line.
        has_model: Whether the owner can use a model.
        check_cancelled: Called for each line.
    """
    report = InputReport()
    custom_ids: dict[str, int] = {}
    try:
        for line in find_lines(path, max_line_bytes=max_line_bytes):
            check_cancelled()
            report.total += 1
            try:
                _check_line(path, line, endpoint, max_line_bytes, custom_ids, report, has_model)
            except InputError as exc:
                report.errors.append(_serialize_error(exc, line.number))
                if len(report.errors) >= MAX_ERRORS or exc.reason == "too_many_tasks":
                    break
    except InputError as exc:
        report.errors.append(_serialize_error(exc, None))
    if not report.total and not report.errors:
        message = "The input file has no requests."
        report.errors.append({"code": "empty_file", "message": message, "line": None, "param": None})
    return report


def _serialize_error(error: InputError, line: int | None) -> dict[str, Any]:
    return {"code": error.reason, "message": error.message, "line": line, "param": error.param}


def _check_line(
    path: Path,
    line: InputLine,
    endpoint: str,
    max_line_bytes: int,
    custom_ids: dict[str, int],
    report: InputReport,
    has_model: Callable[[str], bool],
) -> None:
    if report.total > MAX_REQUESTS:
        message = f"A batch can have at most {MAX_REQUESTS} requests."
        raise InputError("too_many_tasks", message)
    if line.bytes > max_line_bytes:
        message = f"This line has more than {max_line_bytes} bytes."
        raise InputError("invalid_request", message)
    request = read_request(path, line, endpoint)
    first = custom_ids.setdefault(request.custom_id, line.number)
    if first != line.number:
        message = f"The custom_id '{printable(request.custom_id)}' stands in line {first}, too."
        raise InputError("duplicate_custom_id", message, "custom_id")
    model = request.body["model"]
    if report.model is None:
        report.model = model
        if not has_model(model):
            message = f"No such model: {printable(model)}"
            raise InputError("model_not_found", message, "body.model")
    elif model != report.model:
        message = f"All requests of a batch must name one model: this one names {printable(model)}."
        raise InputError("model_mismatch", message, "body.model")
