"""``/ftpipe/losses``: the loss of each row of a file under one or several models of the same base.

An extension of ftpipe. The file comes as a form, is scored by a separate process, and is deleted afterwards; the
response is a stream of progress, then the rows in batches.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from ftpipe.modeling.base_models import needs_download
from ftpipe.process_priority import lower_priority
from ftpipe.server.api.schemas import RequestModel, validate_body
from ftpipe.server.cancellation import CancelToken
from ftpipe.server.jobs.trainer_process import trainer_environment
from ftpipe.server.model_resolver import ModelResolver, ResolvedModel
from ftpipe.server.protocol import (
    DONE_EVENT,
    ApiError,
    ApiRequest,
    Stream,
    bad_request,
    data_event,
    missing_parameter,
    model_not_found,
    parse_json,
)
from ftpipe.server.storage import Store
from ftpipe.server.storage.data_dir import DataDirectory, new_body_path
from ftpipe.training.row_losses import ScoringRequest

COMMAND = (sys.executable, "-m", "ftpipe.training.row_losses")
NICE = 10
"""Jobs and chats come first if all need the processor."""
MAX_MODELS = 8
ROWS_PER_EVENT = 500
DATASET_ERROR_CODES = ("dataset", "chat_template")
"""Codes of errors that are caused by the file."""


class LossesForm(RequestModel):
    """The text fields of ``POST /ftpipe/losses``."""

    model_config = ConfigDict(extra="ignore")

    models: str = ""
    """A JSON list of names of one base model."""


class RowLossesApi:
    """The handler of ``POST /ftpipe/losses``.

    Args:
        store: The server's database.
        data_dir: The server's folder.
        models: Finds what serves a name.
        models_dir: Folder of the base models.
    """

    def __init__(self, store: Store, data_dir: DataDirectory, models: ModelResolver, models_dir: Path) -> None:
        self._store = store
        self._data_dir = data_dir
        self._models = models
        self._models_dir = models_dir
        self._busy = threading.Lock()

    def score(self, request: ApiRequest) -> Stream:
        """Score the rows of the form's ``file`` under its ``models`` (a JSON list of names of one base model)."""
        if request.file is None:
            raise missing_parameter("file")
        models = self._resolve(request.owner, _model_names(request.body))
        if len({model.base for model in models}) > 1:
            message = "Losses per token can only be compared between models of one base."
            raise bad_request(message, "models")
        events = self._score(request.file.path, models, request.cancel_token)
        # The first event is waited for, so that a file that cannot be scored is an HTTP error, not a broken stream.
        return Stream(_stream(next(events), events))

    def _resolve(self, owner: str, names: list[str]) -> list[ResolvedModel]:
        models = []
        with self._store.read() as tx:
            for name in names:
                model = self._models.resolve(tx, owner, name)
                if model is None:
                    raise model_not_found(name)
                models.append(model)
        return models

    def _score(self, file: Path, models: list[ResolvedModel], token: CancelToken) -> Iterator[dict[str, Any]]:
        """The output of the process; closing the iterator ends the process and deletes the file."""
        if not self._busy.acquire(blocking=False):
            message = "Another file is being scored; try again when it is done."
            raise ApiError(429, message, "rate_limit_exceeded", None, "requests")
        data = new_body_path(self._data_dir.incoming)
        try:
            file.replace(data)
            adapters = tuple(model.adapter for model in models)
            scoring = ScoringRequest(data, models[0].base, adapters, self._models_dir)
            environment = trainer_environment(downloads=needs_download(scoring.base, scoring.models_dir))
            yield from _run([*COMMAND, scoring.as_json()], environment, token)
        finally:
            data.unlink(missing_ok=True)
            self._busy.release()


def _model_names(body: Mapping[str, Any]) -> list[str]:
    try:
        names = parse_json(validate_body(LossesForm, body).models)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        message = "Invalid 'models': expected a JSON list of model names."
        raise bad_request(message, "models")
    if not 1 <= len(names) <= MAX_MODELS:
        message = f"Invalid 'models': expected 1 to {MAX_MODELS} names, got {len(names)}."
        raise bad_request(message, "models")
    return names


def _run(command: list[str], environment: dict[str, str], token: CancelToken) -> Iterator[dict[str, Any]]:
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # the priority of a session's group is that of all its processes
    ) as process:
        lower_priority(NICE, process.pid)
        token.on_cancel(process.kill)
        try:
            for line in process.stdout or ():
                token.raise_if_cancelled()
                row: dict[str, Any] = json.loads(line)
                if "error" in row:
                    raise _to_api_error(row["error"])
                yield row
            code = process.wait()
            token.raise_if_cancelled()
            if code:
                message = "The process that scores rows has died; see the server's log."
                raise ApiError(500, message, None, None, "server_error")
        finally:
            process.kill()


def _to_api_error(error: Mapping[str, str]) -> ApiError:
    if error["code"] in DATASET_ERROR_CODES:
        return ApiError(400, error["message"], "invalid_file", "file")
    return ApiError(503, error["message"], "model_unavailable", "models", "server_error")


def _stream(first: dict[str, Any], rest: Iterator[dict[str, Any]]) -> Iterator[str]:
    """Server-sent events: progress at once, rows in batches, and an error in OpenAI's format if it breaks off."""
    rows: list[dict[str, Any]] = []
    with closing(rest):  # type: ignore[type-var]  # a generator, which has close()
        yield data_event(first)
        try:
            for row in rest:
                if "line" not in row:
                    yield data_event(row)
                    continue
                rows.append(row)
                if len(rows) == ROWS_PER_EVENT:
                    yield data_event({"rows": rows})
                    rows = []
            yield data_event({"rows": rows})
        except ApiError as exc:
            yield data_event(exc.body)
    yield DONE_EVENT
