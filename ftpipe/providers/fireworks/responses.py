"""Turns the jobs, metrics and errors of Fireworks into ftpipe's records.

Source for names and forms: PyPI fireworks-ai 1.2.30 (types of requests and responses), read 2026-11-28.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from ftpipe.errors import InvalidResponseError
from ftpipe.providers.fireworks.api import id_of
from ftpipe.providers.responses import mapping, metric_of, text
from ftpipe.records import Event, Hyperparameters, Job, JobError, Method
from ftpipe.records.job import TERMINAL_STATUSES

STATE_PREFIX = "JOB_STATE_"
STATUSES = {
    "CREATING": "validating_files",
    "CREATING_INPUT_DATASET": "validating_files",
    "VALIDATING": "validating_files",
    "PENDING": "queued",
    "RE_QUEUEING": "queued",
    "IDLE": "queued",
    "RUNNING": "running",
    "WRITING_RESULTS": "running",
    "CANCELLING": "running",
    "COMPLETED": "succeeded",
    "EARLY_STOPPED": "succeeded",
    "FAILED": "failed",
    "EXPIRED": "failed",
    "CANCELLED": "cancelled",
    "DELETING": "cancelled",
    "DELETING_CLEANING_UP": "cancelled",
    "PAUSED": "paused",
}
"""State without its prefix → status. Older answers lack the prefix. Source: public run logs, 2025."""
NAMES = {
    "epochs": "n_epochs",
    "batchSizeSamples": "batch_size",
    "learningRate": "learning_rate",
    "loraRank": "lora_r",
}
"""Field of a job → hyperparameter."""
EXTRA_NAMES = (
    *("learningRateWarmupSteps", "optimizerWeightDecay", "maxContextLength", "batchSize"),
    *("earlyStop", "evalAutoCarveout", "jinjaTemplate"),
)
"""Fields of a job that are kept under ``extra``."""
METRICS = {
    "train_loss": ("train/loss", "loss"),
    "train_mean_token_accuracy": ("train/mean_token_accuracy", "train/accuracy"),
    "valid_loss": ("eval/loss", "validation/loss", "eval_loss"),
    "valid_mean_token_accuracy": ("eval/mean_token_accuracy", "eval/accuracy"),
}
"""Metric → its names in a metrics file, of which the format is not documented. Source: public run logs, 2026-07."""
MAX_METRICS = 20_000
"""How many steps of a metrics file are read."""


def job_of(fields: Mapping[str, Any], *, endpoint: str, provider: str, parent: str) -> Job:
    """A supervised or DPO job."""
    job_id = id_of(fields.get("name"), what="job")
    method = Method.DPO if "/dpoJobs/" in str(fields["name"]) else Method.SUPERVISED
    config = mapping(fields.get("trainingConfig")) if method is Method.DPO else fields
    status = status_of(fields.get("state"))
    output = text(config.get("outputModel")) or job_id
    return Job(
        id=job_id,
        endpoint=endpoint,
        provider=provider,
        status=status,
        model=text(config.get("baseModel")) or text(config.get("warmStartFrom")),
        training_file=short_id(fields.get("dataset"), parent),
        validation_file=short_id(fields.get("evaluationDataset"), parent) or None,
        method=method,
        resolved=_hyperparameters(config, fields),
        created_at=unix_seconds(fields.get("createTime")) or 0,
        finished_at=unix_seconds(fields.get("completedTime")),
        fine_tuned_model=full_model_name(output, parent) if status == "succeeded" else None,
        error=_error(fields.get("status")) if status in ("failed", "cancelled") else None,
    )


def status_of(state: object) -> str:
    """Ftpipe's word for a state; a word that is not known is neither running nor ended."""
    if not isinstance(state, str) or not state:
        raise InvalidResponseError("the response has no job state")
    word = state.removeprefix(STATE_PREFIX)
    if word in STATUSES:
        return STATUSES[word]
    lower = word.lower()[:64]
    return "unknown" if lower in TERMINAL_STATUSES | {"running", "queued", "validating_files"} else lower


def short_id(name: object, parent: str) -> str:
    """The id of a resource of the own account, the whole name of any other; empty if there is none."""
    return text(name).removeprefix(f"{parent}/datasets/")


def full_model_name(model: str, parent: str) -> str:
    """``accounts/{account}/models/{id}`` for the id of a model of the account."""
    return model if model.startswith("accounts/") else f"{parent}/models/{model}"


def unix_seconds(value: object) -> int | None:
    """A time in ISO 8601 as UTC Unix seconds."""
    if not isinstance(value, str) or not value:
        return None
    try:
        return int(datetime.fromisoformat(value).timestamp())
    except (ValueError, OverflowError, OSError):
        return None


def money_of(value: object) -> tuple[float, str] | None:
    """Amount and currency of ``{currencyCode, units, nanos}``; units are an int64 and so come as text.

    Source: fireworks-ai 1.2.30, supervised_fine_tuning_job.py, EstimatedCost, 2026-11-28.
    """
    fields = mapping(value)
    try:
        amount = int(fields.get("units") or 0) + int(fields.get("nanos") or 0) / 1e9
    except (ValueError, TypeError):
        return None
    has_amount = fields.get("units") is not None or fields.get("nanos") is not None
    return (amount, text(fields.get("currencyCode")) or "USD") if has_amount and amount >= 0 else None


def events_of(fields: Mapping[str, Any], metrics: str | None) -> list[Event]:
    """What a job says of itself as events, oldest first: Fireworks has no event list.

    Args:
        fields: The job.
        metrics: Its metrics file; ``None`` if there is none yet.
    """
    job_id = id_of(fields.get("name"), what="job")
    created = unix_seconds(fields.get("createTime")) or 0
    events = []
    if (cost := money_of(fields.get("estimatedCost"))) is not None:
        message = f"the provider estimates the cost at {cost[0]:.2f} {cost[1]}"
        data = {"estimated_cost": cost[0], "currency": cost[1]}
        events.append(Event(id=f"{job_id}-cost", created_at=created, level="info", message=message, data=data))
    for index, row in enumerate(_metric_rows(metrics or "")):
        loss = f": training loss={row['train_loss']:.4g}" if isinstance(row.get("train_loss"), float) else ""
        events.append(
            Event(
                id=f"{job_id}-step-{row['step']}",
                created_at=int(row.pop("timestamp", 0)) or created + index,
                level="info",
                type="metrics",
                message=f"Step {row['step']}{loss}",
                data=row,
            )
        )
    error = _error(fields.get("status"))
    if error is not None and status_of(fields.get("state")) == "failed":
        ended = unix_seconds(fields.get("completedTime")) or unix_seconds(fields.get("updateTime")) or created
        events.append(Event(id=f"{job_id}-error", created_at=ended, level="error", message=error.message))
    return events


def _metric_rows(lines: str) -> Iterator[dict[str, Any]]:
    """The steps of a metrics file in JSONL: values beside ``step``, or under ``data``; other lines are left out."""
    steps: dict[int, dict[str, Any]] = {}
    for line in lines.splitlines()[:MAX_METRICS]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(row, dict):
            continue
        values = {**row, **mapping(row.get("data"))}
        step = values.get("step", values.get("train/step"))
        named = {name: next((values[key] for key in keys if key in values), None) for name, keys in METRICS.items()}
        metric = metric_of({"step": step, "total_steps": values.get("total_steps"), **named})
        if metric is None or metric.step < 0:
            continue
        found = metric.model_dump(exclude_none=True)
        stamp = values.get("timestamp")
        if isinstance(stamp, float | int) and not isinstance(stamp, bool) and math.isfinite(stamp) and stamp > 0:
            found["timestamp"] = stamp
        steps[metric.step] = {**steps.get(metric.step, {}), **found}
    return iter(steps[step] for step in sorted(steps))


def _hyperparameters(config: Mapping[str, Any], fields: Mapping[str, Any]) -> Hyperparameters | None:
    values = {own: config[name] for name, own in NAMES.items() if _is_plain(config.get(name)) and config[name]}
    beta = mapping(mapping(fields.get("lossConfig")).get("dpo")).get("beta")
    if _is_plain(beta):
        values["beta"] = beta
    extra = {name: config[name] for name in EXTRA_NAMES if _is_plain(config.get(name)) and config[name]}
    if not values and not extra:
        return None
    try:
        return Hyperparameters(**values, extra=extra)
    except ValidationError:
        return Hyperparameters(extra={**values, **extra})


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool)


def _error(value: object) -> JobError | None:
    fields = mapping(value)
    code, message = text(fields.get("code")), text(fields.get("message"))
    return JobError(code=code, message=message) if message or code not in ("", "OK") else None
