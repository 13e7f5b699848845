"""Checks the responses of an endpoint and turns them into ftpipe's records.

Compatible endpoints differ: unknown values and keys are accepted, and so is null instead of a list. Only the ids that
identify something are checked strictly.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from ftpipe.errors import InvalidResponseError
from ftpipe.records import Checkpoint, Event, Hyperparameters, Job, JobError, Method, Record, TrainingMetrics
from ftpipe.records.evaluation import TokenLogprob

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,254}")
"""The form of an id; a response with any other id is broken."""

METRIC_NAMES = tuple(name for name in TrainingMetrics.model_fields if name not in ("step", "total_steps"))


class RemoteFile(Record):
    """A file as its endpoint describes it."""

    id: str
    bytes: int
    filename: str
    purpose: str
    status: str
    """``uploaded``, ``processed``, ``error``, or another word; empty if the endpoint gives none."""
    status_details: str = ""
    created_at: int = 0
    expires_at: int | None = None
    """UTC Unix seconds after which the endpoint deletes it; ``None`` if it does not."""


class RemoteModel(Record):
    """A model as its endpoint lists it."""

    id: str
    created_at: int | None = None
    owned_by: str = ""
    shutdown_date: str | None = None
    """ISO 8601; ``None`` if the endpoint does not say. Source: OpenAI API description, Model, 2026-08-21."""


class RemoteUpload(Record):
    """An upload in parts as its endpoint describes it."""

    id: str
    status: str
    bytes: int
    expires_at: int
    """UTC Unix seconds after which parts are refused."""
    file: RemoteFile | None = None


class RemoteBatch(Record):
    """A batch of requests as its endpoint describes it."""

    id: str
    status: str
    """``validating``, ``in_progress``, ``finalizing``, ``completed``, ``failed``, ``expired``, ``cancelling``,
    ``cancelled``, or an unknown word."""
    input_file: str
    output_file: str | None = None
    """File with the answers; ``None`` if there are none yet, or none at all."""
    error_file: str | None = None
    """File with the requests that were refused, or that were not answered in time."""
    created_at: int = 0
    completed: int = 0
    """Requests that were answered."""
    total: int = 0
    errors: tuple[str, ...] = ()
    """Why the whole batch failed."""
    metadata: dict[str, str] = Field(default_factory=dict)


class TrainingAvailability(Record):
    """Whether an endpoint would accept a job, as far as that can be known without creating one."""

    allowed: bool | None
    """``None`` if it is not known."""
    why: str
    """What the endpoint answered, or why it is not known."""
    notice: str = ""
    """What the user should know before paying, for example that the tuned model cannot be served there."""


class JobListing(NamedTuple):
    """The jobs of an endpoint, newest first, and how many more it listed in a form that cannot be read."""

    jobs: list[Job]
    unreadable: int


class PriceQuote(Record):
    """What a host estimates for a job on files that it has."""

    price: float | None
    """In USD; ``None`` if the host cannot estimate it."""
    tokens: int | None = None
    """Tokens that would be trained."""
    allowed: bool | None = None
    """Whether the account's limit covers it; ``None`` if the host does not say."""
    why: str = ""
    """Why there is no price, or why the job is not allowed."""


class ChatCompletion(Record):
    """One chat completion."""

    text: str
    """The answer; of a refusal its text."""
    tool_calls: tuple[dict[str, Any], ...] = ()
    finish_reason: str = ""
    """As the endpoint says; ``refusal`` if the model refused to answer."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """``None`` if there are none."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    latency_s: float = 0.0
    """Wall-clock seconds from the request to the complete response."""


class AnswerPiece(NamedTuple):
    """A part of an answer that is streamed."""

    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    tool_calls: tuple[dict[str, Any], ...] = ()
    """Parts of calls, each with the ``index`` of its call."""
    finish_reason: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def as_dict(response: object) -> dict[str, Any]:
    """The fields of a response; the SDK returns text or nothing if a body is not the promised JSON."""
    if isinstance(response, BaseModel):
        response = response.model_dump(warnings=False)
    if isinstance(response, Mapping):
        return {strip_unstorable(str(key)): strip_unstorable(value) for key, value in response.items()}
    raise InvalidResponseError(f"the response was {type(response).__name__}, not an object")


def strip_unstorable(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """JSON with text that every database accepts: lone surrogates become ``?``, NUL is removed."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
    if isinstance(value, Mapping):
        return {strip_unstorable(str(key)): strip_unstorable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [strip_unstorable(inner) for inner in value]
    return value


def checked_id(fields: Mapping[str, Any], what: str) -> str:
    """The ``id`` of a response, if it has the form of an id."""
    value = fields.get("id")
    if not isinstance(value, str) or not ID.fullmatch(value):
        raise InvalidResponseError(f"the response has no {what} id")
    return value


def file_of(response: object) -> RemoteFile:
    """A file object."""
    fields = as_dict(response)
    return RemoteFile(
        id=checked_id(fields, "file"),
        bytes=whole(fields.get("bytes")) or 0,
        filename=text(fields.get("filename")),
        purpose=text(fields.get("purpose")),
        status=text(fields.get("status")),
        status_details=text(fields.get("status_details")),
        created_at=whole(fields.get("created_at")) or 0,
        expires_at=whole(fields.get("expires_at")),
    )


def model_of(response: object) -> RemoteModel:
    """A model object."""
    fields = as_dict(response)
    return RemoteModel(
        id=checked_id(fields, "model"),
        created_at=whole(fields.get("created")),
        owned_by=text(fields.get("owned_by")),
        shutdown_date=_iso_date(fields.get("shutdown_date")),
    )


def upload_of(response: object) -> RemoteUpload:
    """An upload object."""
    fields = as_dict(response)
    file = fields.get("file")
    return RemoteUpload(
        id=checked_id(fields, "upload"),
        status=text(fields.get("status")),
        bytes=whole(fields.get("bytes")) or 0,
        expires_at=whole(fields.get("expires_at")) or 0,
        file=file_of(file) if file else None,
    )


def batch_of(response: object) -> RemoteBatch:
    """A batch object; hosts write an empty text for a file that does not exist."""
    fields = as_dict(response)
    status = fields.get("status")
    if not isinstance(status, str) or not status:
        raise InvalidResponseError("the response has no batch status")
    counts = mapping(fields.get("request_counts"))
    errors = [mapping(error) for error in _list(mapping(fields.get("errors")).get("data"))]
    return RemoteBatch(
        id=checked_id(fields, "batch"),
        status=status,
        input_file=text(fields.get("input_file_id")),
        output_file=text(fields.get("output_file_id")) or None,
        error_file=text(fields.get("error_file_id")) or None,
        created_at=whole(fields.get("created_at")) or 0,
        completed=whole(counts.get("completed")) or 0,
        total=whole(counts.get("total")) or 0,
        errors=tuple(text(error.get("message")) or text(error.get("code")) for error in errors),
        metadata={str(key): str(value) for key, value in mapping(fields.get("metadata")).items()},
    )


def completion_of(response: object, *, latency_s: float = 0.0) -> ChatCompletion:
    """A chat completion; the first choice is its answer."""
    fields = as_dict(response)
    choice = mapping(next(iter(_list(fields.get("choices"))), None))
    if not isinstance(choice.get("message"), Mapping):
        raise InvalidResponseError("the response has no answer")
    message, usage = mapping(choice["message"]), mapping(fields.get("usage"))
    refusal = text(message.get("refusal"))
    return ChatCompletion(
        text=text(message.get("content")) or refusal,
        tool_calls=tuple(mapping(call) for call in _list(message.get("tool_calls"))),
        finish_reason="refusal" if refusal else text(choice.get("finish_reason")),
        logprobs=_logprobs(mapping(choice.get("logprobs")).get("content")),
        prompt_tokens=whole(usage.get("prompt_tokens")),
        completion_tokens=whole(usage.get("completion_tokens")),
        latency_s=latency_s,
    )


def answer_piece_of(chunk: object) -> AnswerPiece:
    """A chunk of a streamed chat completion; of several choices only the first one."""
    fields = as_dict(chunk)
    choice = mapping(next(iter(_list(fields.get("choices"))), None))
    delta, usage = mapping(choice.get("delta")), mapping(fields.get("usage"))
    refusal = text(delta.get("refusal"))
    return AnswerPiece(
        text=text(delta.get("content")) or refusal,
        logprobs=_logprobs(mapping(choice.get("logprobs")).get("content")) or (),
        tool_calls=tuple(mapping(call) for call in _list(delta.get("tool_calls"))),
        finish_reason=text(choice.get("finish_reason")),
        prompt_tokens=whole(usage.get("prompt_tokens")),
        completion_tokens=whole(usage.get("completion_tokens")),
    )


def _logprobs(value: object) -> tuple[TokenLogprob, ...] | None:
    """The logarithms of the tokens of an answer; ``None`` if one of them is not a number."""
    tokens = []
    for item in map(mapping, _list(value)):
        logprob = number(item.get("logprob"))
        if logprob is None:
            return None
        listed = map(mapping, _list(item.get("top_logprobs")))
        others = {text(one.get("token")): number(one.get("logprob")) for one in listed}
        alternatives = {token: value for token, value in others.items() if value is not None}
        tokens.append(TokenLogprob(token=text(item.get("token")), logprob=logprob, alternatives=alternatives))
    return tuple(tokens) or None


def job_of(response: object, *, endpoint: str, provider: str) -> Job:
    """A job object; one that ftpipe's own server calls queued, and paused in an object of its own, is paused."""
    fields = as_dict(response)
    status = fields.get("status")
    if not isinstance(status, str) or not status:
        raise InvalidResponseError("the response has no job status")
    return Job(
        id=checked_id(fields, "job"),
        endpoint=endpoint,
        provider=provider,
        status="paused" if status == "queued" and mapping(fields.get("x_ftpipe")).get("paused") is True else status,
        model=text(fields.get("model")),
        training_file=text(fields.get("training_file")),
        validation_file=text(fields.get("validation_file")) or None,
        method=_method(fields),
        resolved=_hyperparameters(fields),
        suffix=text(fields.get("user_provided_suffix")) or None,
        seed=whole(fields.get("seed")),
        created_at=whole(fields.get("created_at")) or 0,
        finished_at=whole(fields.get("finished_at")),
        estimated_finish=whole(fields.get("estimated_finish")),
        fine_tuned_model=text(fields.get("fine_tuned_model")) or None,
        trained_tokens=whole(fields.get("trained_tokens")),
        error=_job_error(fields.get("error")),
        result_files=tuple(item for item in _list(fields.get("result_files")) if isinstance(item, str)),
        metadata={str(k): str(v) for k, v in mapping(fields.get("metadata")).items()},
    )


def event_of(response: object) -> Event:
    """An event object."""
    fields = as_dict(response)
    return Event(
        id=checked_id(fields, "event"),
        created_at=whole(fields.get("created_at")) or 0,
        level=text(fields.get("level")) or "info",
        type=text(fields.get("type")) or "message",
        message=text(fields.get("message")),
        data=mapping(fields.get("data")),
    )


def checkpoint_of(response: object) -> Checkpoint:
    """A checkpoint object."""
    fields = as_dict(response)
    step = whole(fields.get("step_number")) or 0
    return Checkpoint(
        id=checked_id(fields, "checkpoint"),
        created_at=whole(fields.get("created_at")) or 0,
        step=step,
        model=text(fields.get("fine_tuned_model_checkpoint")),
        metrics=metric_of({"step": step, **mapping(fields.get("metrics"))}) or TrainingMetrics(step=step),
    )


def metric_of(data: Mapping[str, Any]) -> TrainingMetrics | None:
    """The metrics in an event's data; ``None`` if it has no step. A value that is not a finite number is left out."""
    step = whole(data.get("step"))
    if step is None:
        return None
    values = {name: number(data.get(name)) for name in METRIC_NAMES}
    return TrainingMetrics(step=step, total_steps=whole(data.get("total_steps")), **values)


def _method(fields: Mapping[str, Any]) -> Method:
    kind = mapping(fields.get("method")).get("type")
    return Method(kind) if isinstance(kind, str) and kind in set(Method) else Method.SUPERVISED


def _hyperparameters(fields: Mapping[str, Any]) -> Hyperparameters | None:
    method = mapping(fields.get("method"))
    block = mapping(method.get(str(method.get("type"))))
    inner = {name: value for name, value in mapping(block.get("hyperparameters")).items() if value is not None}
    values = {**mapping(fields.get("hyperparameters")), **inner}
    plain = {name: value for name, value in values.items() if isinstance(value, (str, int, float, bool))}
    known = {name: value for name, value in plain.items() if name in Hyperparameters.model_fields and name != "extra"}
    if not plain:
        return None
    extra = {name: value for name, value in plain.items() if name not in known}
    try:
        return Hyperparameters(**known | _target_modules(values), extra=extra)
    except ValidationError:
        return Hyperparameters(extra=plain)


def _target_modules(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """The only hyperparameter that is a list; nothing if it is not a list of names."""
    names = _list(values.get("target_modules"))
    return {"target_modules": names} if names and all(isinstance(name, str) for name in names) else {}


def _job_error(value: object) -> JobError | None:
    """The job's error; healthy jobs often carry an object of nulls instead of null."""
    if not isinstance(value, Mapping) or not (value.get("code") or value.get("message")):
        return None
    return JobError(
        code=text(value.get("code")), message=text(value.get("message")), param=text(value.get("param")) or None
    )


def mapping(value: object) -> dict[str, Any]:
    """An object's fields; none for anything else."""
    return {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def text(value: object) -> str:
    """A text; empty for anything else."""
    return value if isinstance(value, str) else ""


def whole(value: object) -> int | None:
    """A number without its fraction, if a double has it exactly; ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if abs(value) < 2**53 else None


def _iso_date(value: object) -> str | None:
    """A day as ``YYYY-MM-DD``; ``None`` for anything else."""
    try:
        return dt.date.fromisoformat(text(value)).isoformat()
    except ValueError:
        return None


def number(value: object) -> float | None:
    """A finite number; ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        real = float(value)
    except OverflowError:  # JSON has whole numbers of any size
        return None
    return real if math.isfinite(real) else None
