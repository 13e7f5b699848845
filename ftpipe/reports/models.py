"""Registered models as text: the list, and the lineage of one."""

from __future__ import annotations

from collections.abc import Sequence

from ftpipe.formatting import (
    Styler,
    count,
    fit_table,
    format_decimal,
    format_money,
    format_table,
    format_time,
    sanitize_line,
    unstyled,
)
from ftpipe.records import Model, TrainingMetrics
from ftpipe.reports.runs import hyperparameter_text


def model_table(models: Sequence[Model], style: Styler = unstyled, *, width: int | None = None) -> list[str]:
    """Models as a table, one row each."""
    rows = [("model", "base", "provider", "created", "loss", "cost", "aliases")]
    rows += [
        (
            sanitize_line(model.id, 80),
            sanitize_line(model.base, 40),
            sanitize_line(model.provider, 20),
            format_time(model.created_at)[:10],
            final_loss_text(model.metrics),
            cost_of(model),
            sanitize_line(", ".join(model.aliases), 80),
        )
        for model in models
    ]
    return fit_table(rows, width=width, right=(4, 5), drop=(1, 2, 5, 3), style=style)


def final_loss_text(metric: TrainingMetrics | None) -> str:
    """The validation loss, or without one the training loss, and which of them it is: ``0.097 valid``."""
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
    return [
        ("model", sanitize_line(model.id, 200)),
        ("aliases", sanitize_line(", ".join(model.aliases), 300)),
        ("base", sanitize_line(model.base, 120)),
        ("shutdown", sanitize_line(model.base_shutdown_date or "", 20)),
        ("replaces", _predecessor_text(model)),
        ("job", f"{sanitize_line(model.job_id, 80)} with {sanitize_line(model.provider, 40)}, {model.method.value}"),
        ("run", sanitize_line(model.run_id or "", 40)),
        ("file", sanitize_line(model.file_id, 80)),
        ("data", f"sha256 {model.dataset_sha256}"),
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
    rows = [("  step", "train", "valid", "checkpoint")]
    rows += [
        (
            str(c.step),
            format_decimal(c.metrics.train_loss),
            format_decimal(validation_loss(c.metrics)),
            sanitize_line(c.model, 120),
        )
        for c in model.checkpoints
    ]
    lines = format_table(rows, right=(0, 1, 2))
    return ["", style("bold", lines[0]), *lines[1:]]
