"""Checks Together's responses and turns them into ftpipe's records.

Source: togethercomputer/openapi 090263a (2026-04-28) and ``together`` 3.1.1; what only public run logs show is marked.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ftpipe.canonical_json import canonical_json
from ftpipe.errors import InvalidResponseError
from ftpipe.providers.responses import PriceQuote, RemoteFile, as_dict, checked_id, number, text, whole
from ftpipe.records import Checkpoint, Event, Hyperparameters, Job, JobError, Method, TrainingMetrics

STATUSES = {
    "pending": "validating_files",
    "queued": "queued",
    "running": "running",
    "compressing": "running",
    "uploading": "running",
    "cancel_requested": "running",
    "completed": "succeeded",
    "cancelled": "cancelled",
    "error": "failed",
    "user_error": "failed",
}
"""Together's status → ftpipe's. Another word is passed on: it is neither running nor failed."""
FILE_STATUSES = {"COMPLETED": "processed", "FAILED": "error", "INVALID_FORMAT": "error"}
"""Processing status of a file → ftpipe's; other words mean that a job cannot use it yet."""
UNPROCESSED = "unprocessed"
"""Status of a file whose check was not started: its bytes may not have arrived."""
LEVELS = {"warning": "warn", "iwarning": "warn", "error": "error", "ierror": "error"}
NANO_DOLLARS = 1_000_000_000
"""Prices of jobs are in billionths of a dollar. Source: public run logs, 2026-07 to 2026-11 (second-hand)."""
METRICS = {"train/loss": "train_loss", "eval/loss": "valid_loss", "train/global_step": "step"}
MAX_SECONDS_REMAINING = 10**8
"""Longer estimates of the remaining time are not believed."""


def items_of(response: object) -> list[Any]:
    """The items of a list: ``data`` of an object, or the response itself; an empty list may be null."""
    items = response.get("data") if isinstance(response, Mapping) else response
    if items is None:
        return []
    if not isinstance(items, list):
        raise InvalidResponseError("the response is not a list")
    return items


def file_of(response: object) -> RemoteFile:
    """A file object."""
    fields = as_dict(response)
    report = fields.get("validation_report")
    error = report.get("error") if isinstance(report, Mapping) else None
    # null if the check was never started; older files only say whether they were processed
    status = text(fields.get("processing_status")) or ("COMPLETED" if fields.get("Processed") is True else "")
    return RemoteFile(
        id=checked_id(fields, "file"),
        bytes=whole(fields.get("bytes")) or 0,
        filename=text(fields.get("filename")),
        purpose=text(fields.get("purpose")),
        status=FILE_STATUSES.get(status, status.lower() or UNPROCESSED),
        status_details=text(error),
        created_at=whole(fields.get("created_at")) or 0,
    )


def job_of(response: object, *, endpoint: str, provider: str) -> Job:
    """A job object, whole or truncated."""
    fields = as_dict(response)
    reported = fields.get("status")
    if not isinstance(reported, str) or not reported:
        raise InvalidResponseError("the response has no job status")
    status = STATUSES.get(reported, reported)
    is_over = status in ("succeeded", "failed", "cancelled")
    method = fields.get("training_method")
    is_dpo = isinstance(method, Mapping) and method.get("method") == "dpo"
    price, epochs, tokens = (whole(fields.get(name)) for name in ("total_price", "n_epochs", "token_count"))
    return Job(
        id=checked_id(fields, "job"),
        endpoint=endpoint,
        provider=provider,
        status=status,
        model=text(fields.get("model")),
        training_file=text(fields.get("training_file")),
        validation_file=text(fields.get("validation_file")) or None,
        method=Method.DPO if is_dpo else Method.SUPERVISED,
        resolved=_hyperparameters(fields),
        suffix=text(fields.get("suffix")) or None,
        seed=whole(fields.get("random_seed")),
        created_at=seconds_of(fields.get("created_at")),
        finished_at=seconds_of(fields.get("updated_at")) or None if is_over else None,
        estimated_finish=None if is_over else _estimated_finish(fields.get("progress")),
        fine_tuned_model=(text(fields.get("model_output_name")) or None) if status == "succeeded" else None,
        # counted once for all epochs. Source: public run logs, 2026-11 (second-hand)
        trained_tokens=tokens * (epochs or 1) if tokens and status == "succeeded" else None,
        price=round(price / NANO_DOLLARS, 9) if price and is_over else None,
        error=_error(fields.get("events"), reported) if status == "failed" else None,
    )


def event_of(response: object) -> Event:
    """An event object; events have no id, so their hash or their content stands for one."""
    fields = as_dict(response)
    own_hash = text(fields.get("hash"))
    content = [fields.get(name) for name in ("created_at", "type", "step", "message")]
    level = text(fields.get("level")).lower().removeprefix("legacy_")
    data = {
        name: value
        for name in ("type", "step", "total_steps", "token_count", "param_count", "checkpoint_path", "model_path")
        if (value := fields.get(name)) not in (None, "")
    }
    return Event(
        id=f"event-{own_hash or digest(content)}",
        created_at=seconds_of(fields.get("created_at")),
        level=LEVELS.get(level, "info"),
        type="message",
        message=text(fields.get("message")),
        data=data,
    )


def metrics_event_of(response: object) -> Event | None:
    """A row of metrics as an event; ``None`` if it has no step."""
    fields = as_dict(response)
    values = {name: number(fields.get(key)) for key, name in METRICS.items()}
    step = values.pop("step")
    known = {name: value for name, value in values.items() if value is not None}
    if step is None or not known:
        return None
    message = ", ".join(f"{name} {value:.4g}" for name, value in known.items())
    return Event(
        id=f"metrics-{int(step)}-{digest(known)}",
        created_at=seconds_of(fields.get("logged_at")) or int(time.time()),
        level="info",
        type="metrics",
        message=f"Step {int(step)}: {message.replace('_', ' ')}",
        data={"step": int(step), **known},
    )


def checkpoint_of(response: object, *, job_id: str) -> Checkpoint:
    """A checkpoint object; it is named as a later job names it, ``JOB:STEP``."""
    fields = as_dict(response)
    step = whole(fields.get("step")) or 0
    name = f"{job_id}:{step}"
    return Checkpoint(
        id=name,
        created_at=seconds_of(fields.get("created_at")),
        step=step,
        model=name,
        metrics=TrainingMetrics(step=step),
    )


def quote_of(response: object) -> PriceQuote:
    """A price estimate."""
    fields = as_dict(response)
    if fields.get("estimation_available") is False:
        return PriceQuote(price=None, why=text(fields.get("unavailable_reason")))
    allowed = fields.get("allowed_to_proceed")
    limit = number(fields.get("user_limit"))
    return PriceQuote(
        price=number(fields.get("estimated_total_price")),
        tokens=whole(fields.get("estimated_train_token_count")),
        allowed=allowed if isinstance(allowed, bool) else None,
        why=f"the account's limit is {limit:g} USD" if allowed is False and limit is not None else "",
    )


def seconds_of(value: object) -> int:
    """UTC Unix seconds of an ISO time or a number; 0 if it is neither."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return whole(value) or 0
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return 0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0, int(moment.timestamp()))


def digest(value: object) -> str:
    """A short digest of JSON values."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:24]


def _error(events: object, status: str) -> JobError:
    """Jobs have no error object: the last event that is an error says why."""
    records = [event for event in events if isinstance(event, Mapping)] if isinstance(events, list) else []
    errors = [event for event in records if "error" in f"{event.get('level')} {event.get('type')}".lower()]
    return JobError(code=status, message=text(errors[-1].get("message")) if errors else "")


def _hyperparameters(fields: Mapping[str, Any]) -> Hyperparameters | None:
    lora = fields.get("training_type")
    lora = lora if isinstance(lora, Mapping) and lora.get("type") == "Lora" else {}
    method = fields.get("training_method")
    values = {
        "n_epochs": _within(whole(fields.get("n_epochs")), 1, 50) or "auto",
        "batch_size": _within(whole(fields.get("batch_size")), 1, 256) or "auto",
        "learning_rate": _within(number(fields.get("learning_rate")), 1e-12, 1),
        "beta": _within(number(method.get("dpo_beta")), 1e-12, 2) if isinstance(method, Mapping) else None,
        "lora_r": _within(whole(lora.get("lora_r")), 1, 512),
        "lora_alpha": _within(whole(lora.get("lora_alpha")), 1, 4096),
        "lora_dropout": _within(number(lora.get("lora_dropout")), 0, 0.9),
        "target_modules": text(lora.get("lora_trainable_modules")) or None,
    }
    if all(value in (None, "auto") for value in values.values()):
        return None
    return Hyperparameters.model_validate(values)


def _within(value: float | None, low: float, high: float) -> float | None:
    return value if value is not None and low <= value <= high else None


def _estimated_finish(progress: object) -> int | None:
    if not isinstance(progress, Mapping) or progress.get("estimate_available") is not True:
        return None
    remaining = _within(number(progress.get("seconds_remaining")), 0, MAX_SECONDS_REMAINING)
    # to the minute: a job that did not change otherwise is not saved again at each reading
    return round((time.time() + remaining) / 60) * 60 if remaining else None
