"""``/ftpipe/losses``: how hard each row of a file is for models, one of which was perhaps trained on it.

An extension of ftpipe's own. The file comes as a form, is scored by a process of its own, and is removed afterwards;
the answer is a stream of how far it is, then the rows in batches.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.server.jobs.trainer_process import trainer_environment
from ftpipe.server.model_resolver import ResolvedModel, model_not_found
from ftpipe.server.protocol import ApiError, ApiRequest, ApiResponse, bad_request
from ftpipe.training.row_losses import ScoringRequest

if TYPE_CHECKING:
    from ftpipe.server.services import ServerContext

COMMAND = (sys.executable, "-m", "ftpipe.training.row_losses")
MAX_MODELS = 8
ROWS_PER_EVENT = 500
"""Rows in one event."""
DATASET_ERROR_CODES = ("dataset", "mask")
"""Codes of errors that are the file's."""


class RowLossesApi:
    """The handler of ``POST /ftpipe/losses``.

    Args:
        house: The server.
    """

    def __init__(self, house: ServerContext) -> None:
        self._house = house
        self._busy = threading.Lock()

    def score(self, call: ApiRequest) -> ApiResponse:
        """Score the rows of the form's ``file`` under its ``models`` (a JSON list of names of one base)."""
        if call.file is None:
            message = "Missing required parameter: 'file'."
            raise bad_request(message, "file", "missing_required_parameter")
        served = self._find(call.owner, _names(call.body))
        if len({model.base for model in served}) > 1:
            message = "Losses per token can only be compared between models of one base."
            raise bad_request(message, "models")
        events = self._scored(call.file.path, served)
        # The first one is waited for, so that a file that cannot be scored is an HTTP error and no torn stream.
        return ApiResponse(events=_stream(next(events), events))

    def _find(self, owner: str, names: list[str]) -> list[ResolvedModel]:
        found = []
        with self._house.store.read() as tx:
            for name in names:
                served = self._house.models.resolve(tx, owner, name)
                if served is None:
                    raise model_not_found(name)
                found.append(served)
        return found

    def _scored(self, file: Path, served: list[ResolvedModel]) -> Iterator[dict[str, Any]]:
        """What the process says; its end, or that of whoever reads it, ends the process and removes the file."""
        if not self._busy.acquire(blocking=False):
            message = "Another file is being scored; ask again when it is done."
            raise ApiError(429, message, "rate_limit_exceeded", None, "requests")
        kept = self._house.data_dir.incoming / f"losses-{secrets.token_hex(8)}"
        try:
            file.replace(kept)
            adapters = tuple(one.adapter for one in served)
            asked = ScoringRequest(kept, served[0].base, adapters, self._house.settings.models_dir)
            yield from _lines([*COMMAND, asked.as_json()])
        finally:
            kept.unlink(missing_ok=True)
            self._busy.release()


def _names(body: Mapping[str, Any]) -> list[str]:
    try:
        names = json.loads(body.get("models", ""))
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        message = "Invalid 'models': expected a JSON list of model names."
        raise bad_request(message, "models")
    if not 1 <= len(names) <= MAX_MODELS:
        message = f"Invalid 'models': expected 1 to {MAX_MODELS} names, got {len(names)}."
        raise bad_request(message, "models")
    return names


def _lines(command: list[str]) -> Iterator[dict[str, Any]]:
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=trainer_environment()
    ) as process:
        try:
            for line in process.stdout or ():
                row: dict[str, Any] = json.loads(line)
                if "error" in row:
                    raise _as_api_error(row["error"])
                yield row
            if process.wait():
                message = "The process that scores rows has died; the server's log may say why."
                raise ApiError(500, message, None, None, "server_error")
        finally:
            process.kill()


def _as_api_error(error: Mapping[str, str]) -> ApiError:
    if error["code"] in DATASET_ERROR_CODES:
        return ApiError(400, error["message"], "invalid_file", "file")
    return ApiError(503, error["message"], "model_unavailable", "models", "server_error")


def _stream(first: dict[str, Any], rest: Iterator[dict[str, Any]]) -> Iterator[str]:
    """Server-sent events: progress as it comes, rows in batches, an error in OpenAI's shape where it breaks off."""
    rows: list[dict[str, Any]] = []
    with closing(rest):  # type: ignore[type-var]  # a generator, which has close()
        yield _event(first)
        try:
            for row in rest:
                if "line" not in row:
                    yield _event(row)
                    continue
                rows.append(row)
                if len(rows) == ROWS_PER_EVENT:
                    yield _event({"rows": rows})
                    rows = []
            yield _event({"rows": rows})
        except ApiError as exc:
            yield _event(exc.body)
    yield "data: [DONE]\n\n"


def _event(value: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, allow_nan=False)}\n\n"
