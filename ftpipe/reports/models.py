"""Registered models as text: the list, and the lineage of one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

from ftpipe.formatting import (
    Styler,
    count,
    fit_table,
    format_decimal,
    format_money,
    format_table,
    format_time,
    plural,
    sanitize_line,
    unstyled,
)
from ftpipe.providers.deadlines import days_left, shutdown_text
from ftpipe.records import Model, TrainingMetrics
from ftpipe.reports.runs import hyperparameter_text

NOTICE_DAYS = 90
"""Days before a shutdown from which a list of models mentions it."""


def model_table(
    models: Sequence[Model], style: Styler = unstyled, *, today: dt.date, width: int | None = None
) -> list[str]:
    """Models as a table, one row each; with the days until their shutdown if one of them has such a day."""
    has_dates = any(model.base_shutdown_date for model in models)
    rows: list[tuple[str, ...]] = [("model", "base", "provider", "created", "loss", "cost", "aliases")]
    rows += [
        (
            sanitize_line(model.id, 80),
            sanitize_line(model.base, 40),
            sanitize_line(model.provider, 20),
            format_time(model.created_at or None)[:10],
            final_loss_text(model.metrics),
            cost_of(model),
            sanitize_line(", ".join(model.aliases), 80),
        )
        for model in models
    ]
    if has_dates:
        days = ("days left", *(days_text(model, today) for model in models))
        rows = [(*row[:-1], cell, row[-1]) for row, cell in zip(rows, days, strict=True)]
    return fit_table(rows, width=width, right=(4, 5, *[6] * has_dates), drop=(1, 2, 5, 3), style=style)


def days_text(model: Model, today: dt.date) -> str:
    """The days until a model is shut down: ``25``, ``0`` on that day, ``gone`` after it; a dash without a date."""
    left = days_left(model.base_shutdown_date, today)
    return "–" if left is None else "gone" if left < 0 else str(left)


def shutdown_notes(models: Sequence[Model], today: dt.date) -> Iterator[str]:
    """When models of a list are shut down, a sentence for each day; those that were shut down are counted."""
    dated = [(model, left) for model in models if (left := days_left(model.base_shutdown_date, today)) is not None]
    for day in sorted({model.base_shutdown_date or "" for model, left in dated if 0 <= left <= NOTICE_DAYS}):
        number = sum(model.base_shutdown_date == day for model, _ in dated)
        yield f"{plural(number, 'model')}: {shutdown_text(day, today)}; `ftpipe models inventory` says what to do"
    if gone := sum(left < 0 for _, left in dated):
        yield f"{plural(gone, 'model')}: shut down, so that {'it does' if gone == 1 else 'they do'} not answer any more"


def final_loss_text(metric: TrainingMetrics | None) -> str:
    """The validation loss, or without one the training loss, and which of them it is: ``0.097 valid``.

    In reinforcement it is the reward, of the validation rows if there are any: ``0.870 reward``.
    """
    if metric is not None and metric.train_mean_reward is not None:
        reward = metric.full_valid_mean_reward
        return f"{format_decimal(metric.train_mean_reward if reward is None else reward, 3)} reward"
    loss = validation_loss(metric)
    if loss is not None:
        return f"{format_decimal(loss, 3)} valid"
    if metric is None or metric.train_loss is None:
        return format_decimal(None)
    return f"{format_decimal(metric.train_loss, 3)} train"


def validation_loss(metric: TrainingMetrics | None) -> float | None:
    """The loss on all validation data, or on a sample of it; ``None`` without validation."""
    if metric is None:
        return None
    return metric.full_valid_loss if metric.full_valid_loss is not None else metric.valid_loss


def measures(metric: TrainingMetrics) -> tuple[float | None, float | None]:
    """The losses of training and validation data; in reinforcement the rewards."""
    if metric.train_mean_reward is None:
        return metric.train_loss, validation_loss(metric)
    rewards = (metric.full_valid_mean_reward, metric.valid_mean_reward)
    return metric.train_mean_reward, next((reward for reward in rewards if reward is not None), None)


def has_rewards(model: Model) -> bool:
    """Whether a model was trained by reinforcement."""
    return any(checkpoint.metrics.train_mean_reward is not None for checkpoint in model.checkpoints)


def cost_of(model: Model) -> str:
    """The actual cost, or the estimate."""
    if model.actual_cost is not None:
        return format_money(model.actual_cost, model.currency) if model.actual_cost else "free"
    return f"~{format_money(model.estimated_cost, model.currency)}" if model.estimated_cost is not None else "unknown"


def lineage_lines(model: Model, style: Styler = unstyled) -> list[str]:
    """The lineage data → file → job → model, with hyperparameters, cost and metrics."""
    rows = _model_fields(model)
    rows[0] = ("model", style("ok", rows[0][1]))
    lines = [f"{style('dim', label.ljust(10))}  {text}" for label, text in rows if text]
    return [*lines, *_metric_lines(model.metrics), *_checkpoint_lines(model, style)]


def difference_lines(first: Model, second: Model, style: Styler = unstyled) -> list[str]:
    """Two models side by side; equal values are dimmed."""
    columns = [[*_model_fields(model), ("final loss", final_loss_text(model.metrics))] for model in (first, second)]
    rows = [[label, one, other] for (label, one), (_, other) in zip(*columns, strict=True) if one or other]
    lines = format_table(rows)
    return [line if one != other else style("dim", line) for line, (_, one, other) in zip(lines, rows, strict=True)]


def _model_fields(model: Model) -> list[tuple[str, str]]:
    """A model's fields with labels; the text is empty if a field is unknown."""
    provider = sanitize_line(model.provider, 40)
    return [
        ("model", sanitize_line(model.id, 200)),
        ("aliases", sanitize_line(", ".join(model.aliases), 300)),
        ("base", sanitize_line(model.base, 120)),
        ("shutdown", sanitize_line(model.base_shutdown_date or "", 20)),
        ("replaces", _predecessor_text(model)),
        ("job", f"{sanitize_line(model.job_id, 80)} with {provider}, {model.method.value}" if model.job_id else ""),
        ("provider", "" if model.job_id else provider),
        ("run", sanitize_line(model.run_id or "", 40)),
        ("file", sanitize_line(model.file_id, 80)),
        ("data", f"sha256 {model.dataset_sha256}" if model.dataset_sha256 else ""),
        ("validation", f"sha256 {model.validation_sha256}" if model.validation_sha256 else ""),
        ("requested", hyperparameter_text(model.requested) if model.requested else ""),
        ("resolved", hyperparameter_text(model.resolved) if model.resolved else ""),
        ("seed", "" if model.seed is None else str(model.seed)),
        ("tokens", "" if model.trained_tokens is None else f"{count(model.trained_tokens)} trained"),
        ("cost", cost_of(model)),
        ("registered", format_time(model.created_at)),
    ]


def _predecessor_text(model: Model) -> str:
    if model.predecessor is None:
        return ""
    return f"{sanitize_line(model.predecessor.model, 200)} at {sanitize_line(model.predecessor.provider, 40)}"


def _metric_lines(metric: TrainingMetrics | None) -> list[str]:
    if metric is None:
        return []
    names = [name for name in TrainingMetrics.model_fields if name not in ("step", "total_steps")]
    known = [
        (name.replace("_", " "), format_decimal(value))
        for name in names
        if (value := getattr(metric, name)) is not None
    ]
    return ["", *format_table((f"  {name}", value) for name, value in known)] if known else []


def _checkpoint_lines(model: Model, style: Styler) -> list[str]:
    if not model.checkpoints:
        return []
    unit = " reward" if has_rewards(model) else ""
    rows = [("  step", f"train{unit}", f"valid{unit}", "checkpoint")]
    for checkpoint in model.checkpoints:
        train, valid = (format_decimal(value) for value in measures(checkpoint.metrics))
        rows.append((str(checkpoint.step), train, valid, sanitize_line(checkpoint.model, 120)))
    lines = format_table(rows, right=(0, 1, 2))
    return ["", style("bold", lines[0]), *lines[1:]]
