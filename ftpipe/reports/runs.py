"""Runs, jobs and sweeps as text: the plan before, the progress during, the result after."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ftpipe.formatting import (
    Styler,
    count,
    duration,
    fit_table,
    format_bytes,
    format_decimal,
    format_money,
    format_table,
    format_time,
    plural,
    relative_path,
    sanitize_line,
    table_width,
    unstyled,
)
from ftpipe.records import CostEstimate, Event, Hyperparameters, Job, Model, Report, Run, RunSpec, TrainingMetrics
from ftpipe.records.sweep import Sweep, Trial
from ftpipe.reports.provider_error_codes import explain_error
from ftpipe.reports.terminal_chart import Series, plot

STATUS_STYLES = {"succeeded": "ok", "failed": "error", "cancelled": "warning", "running": "info"}
_CURVES = (
    ("train", "code", "", "train_loss"),
    ("validation", "warning", "◆", "valid_loss"),
    ("full validation", "ok", "●", "full_valid_loss"),
)
_REWARD_CURVES = (
    ("train", "code", "", "train_mean_reward"),
    ("validation", "ok", "●", "full_valid_mean_reward"),
)
SWEEP_COLUMNS = {"score": "score", "valid_loss": "valid loss", "train_loss": "train loss"}
BAR_WIDTH = 24
"""Characters of the longest bar, if the line has so many left."""
MIN_BAR_WIDTH = 6
"""Shorter bars do not tell anything."""


def plan_lines(spec: RunSpec, report: Report, provider_title: str, style: Styler = unstyled) -> list[str]:
    """What will be uploaded and created, and what it will cost.

    Args:
        spec: The run.
        report: The checked dataset with its token counts.
        provider_title: The endpoint's title.
        style: Styles text for the terminal.
    """
    files = [
        f"{sanitize_line(data.path.name, 80)} ({format_bytes(data.bytes)})"
        for data in (report.dataset, report.validation)
        if data
    ]
    options = [hyperparameter_text(spec.hyperparameters)]
    options += [f"suffix {sanitize_line(spec.suffix, 64)}"] if spec.suffix else []
    options += [f"seed {spec.seed}"] if spec.seed is not None else []
    rows = [
        ("upload", ", ".join(files)),
        (
            "create",
            f"{report.method.value} job at {sanitize_line(provider_title, 200)}, "
            f"base model {sanitize_line(spec.model, 80)}",
        ),
        ("", stand_in_text(spec)),
        ("", ", ".join(options)),
        ("cost", cost_text(report.cost)),
        ("", sanitize_line(report.cost.warning, 300) if report.cost and report.cost.expected else ""),
    ]
    return [style("bold", "plan"), *(f"  {label:<8}{text}" for label, text in rows if text)]


def stand_in_text(spec: RunSpec) -> str:
    """Which hosted model is replaced by one of the user's machine, and after which of them the result is named."""
    name = f"the model is named ft:{sanitize_line(spec.serve_as or spec.model, 100).replace('/', '--')}:…"
    if spec.requested_model is None:
        return name if spec.serve_as else ""
    requested = sanitize_line(spec.requested_model, 80)
    keep = "" if spec.serve_as else f" (--serve-as {requested} keeps the old name)"
    return f"in place of {requested}, which cannot be trained there; {name}{keep}"


def hyperparameter_text(hyperparameters: Hyperparameters | None) -> str:
    """Hyperparameters as one line: ``3 epochs, batch size auto, …``."""
    if hyperparameters is None:
        return "unknown"
    epochs = "epochs auto" if hyperparameters.n_epochs == "auto" else plural(hyperparameters.n_epochs, "epoch")
    parts = [epochs, f"batch size {hyperparameters.batch_size}"]
    if hyperparameters.learning_rate is None or hyperparameters.learning_rate_multiplier != "auto":
        parts.append(f"learning rate multiplier {hyperparameters.learning_rate_multiplier}")
    parts += [f"beta {hyperparameters.beta}"] if hyperparameters.beta is not None else []
    parts += _reinforcement_hyperparameters(hyperparameters)
    parts += _local_hyperparameters(hyperparameters)
    return ", ".join(
        [
            *parts,
            *(f"{sanitize_line(key, 40)} {sanitize_line(value, 40)}" for key, value in hyperparameters.extra.items()),
        ]
    )


def _reinforcement_hyperparameters(hyperparameters: Hyperparameters) -> list[str]:
    values = {
        "compute multiplier": hyperparameters.compute_multiplier,
        "evaluation interval": hyperparameters.eval_interval,
        "evaluation samples": hyperparameters.eval_samples,
        "completion tokens": hyperparameters.max_completion_tokens,
    }
    return [f"{label} {value}" for label, value in values.items() if value is not None]


def _local_hyperparameters(hyperparameters: Hyperparameters) -> list[str]:
    numbers = {
        "learning rate": hyperparameters.learning_rate,
        "LoRA rank": hyperparameters.lora_r,
        "alpha": hyperparameters.lora_alpha,
        "dropout": hyperparameters.lora_dropout,
    }
    parts = [f"{label} {value:g}" for label, value in numbers.items() if value is not None]
    parts += [f"at most {hyperparameters.max_length:,} tokens"] if hyperparameters.max_length else []
    parts += [hyperparameters.precision] if hyperparameters.precision else []
    if hyperparameters.quantization not in (None, "none"):
        parts.append(f"{hyperparameters.quantization} weights")
    parts += ["gradient checkpointing"] if hyperparameters.gradient_checkpointing else []
    if hyperparameters.target_modules:
        parts.append(f"adapters on {sanitize_line(' '.join(hyperparameters.target_modules), 120)}")
    return parts


def cost_text(cost: CostEstimate | None) -> str:
    """A cost estimate as one line."""
    if cost is None:
        return "not estimated"
    if cost.expected is None:
        return f"unknown: {sanitize_line(cost.warning or 'there is no price for this model', 200)}"
    if cost.price_per_million == 0:
        return "free"
    text = f"{cost.at_least}{format_money(cost.expected, cost.currency)}"
    if cost.low != cost.high:
        text += f" (from {format_money(cost.low, cost.currency)} to {format_money(cost.high, cost.currency)})"
    tokens = f"{cost.at_least}{count(cost.tokens_per_epoch)} tokens"
    return f"{text}, estimated from {tokens} × {plural(cost.epochs, 'epoch')}"


def status_lines(
    run: Run | None,
    job: Job | None,
    metrics: Sequence[TrainingMetrics],
    *,
    now: float,
    width: int = 80,
    style: Styler = unstyled,
) -> list[str]:
    """The state of a run and its job.

    Args:
        run: ``None`` for a job that was created elsewhere.
        job: ``None`` if none was created yet.
        metrics: Metrics in order of steps.
        now: UTC Unix seconds.
        width: Width of the terminal in columns.
        style: Styles text for the terminal.
    """
    rows: list[tuple[str, str]] = []
    if run is not None:
        rows.append(("run", f"{sanitize_line(run.id, 40)}  {run.state.value}, started {format_time(run.created_at)}"))
        rows.append(("data", f"{sanitize_line(relative_path(run.spec.data), 120)}  {run.dataset_sha256[:12]}"))
    if job is not None:
        rows += _job_rows(job, metrics, now, style)
    cost = cost_text(run.cost) if run else "unknown"
    if run is not None and run.model is not None and run.model.actual_cost:
        paid = format_money(run.model.actual_cost, run.model.currency)
        cost = f"{paid} for {count(run.model.trained_tokens or 0)} tokens"
    rows.append(("cost", cost))
    lines = [f"{style('dim', label.ljust(10))} {text}" for label, text in rows]
    chart = loss_chart(metrics, width=width, style=style)
    lines += ["", *chart] if chart else []
    return lines + failure_lines(run, job, style)


def _job_rows(job: Job, metrics: Sequence[TrainingMetrics], now: float, style: Styler) -> list[tuple[str, str]]:
    status = style(STATUS_STYLES.get(job.status, "bold"), sanitize_line(job.status, 40))
    rows = [
        ("job", f"{sanitize_line(job.id, 80)}  {status} at {sanitize_line(job.provider, 40)}"),
        ("base", sanitize_line(job.model, 100)),
    ]
    if metrics:
        rows += [("step", step_text(metrics[-1])), ("reward" if _has_rewards(metrics) else "loss", loss_text(metrics))]
    if job.estimated_finish and not job.is_finished:
        rows.append(("finish", f"in about {duration(job.estimated_finish - now)}, {format_time(job.estimated_finish)}"))
    if job.finished_at:
        rows.append(("finished", f"{format_time(job.finished_at)}, after {duration(job.finished_at - job.created_at)}"))
    rows.append(("requested", hyperparameter_text(job.requested))) if job.requested else None
    rows.append(("resolved", hyperparameter_text(job.resolved))) if job.resolved else None
    if job.trained_tokens is not None:
        rows.append(("tokens", f"{count(job.trained_tokens)} trained"))
    if job.fine_tuned_model:
        rows.append(("model", style("ok", sanitize_line(job.fine_tuned_model, 200))))
    return rows


def step_text(metric: TrainingMetrics) -> str:
    """``34 of 90``, or ``34`` if the total is unknown."""
    return f"{metric.step:,} of {metric.total_steps:,}" if metric.total_steps else f"{metric.step:,}"


def loss_text(metrics: Sequence[TrainingMetrics]) -> str:
    """The latest reported losses and token accuracy, or in reinforcement the latest rewards."""
    parts: list[str] = []
    noun = "reward" if _has_rewards(metrics) else "loss"
    for label, _, _, name in _curves(metrics):
        value = last_value(metrics, name)
        parts += [f"{label} {noun} {format_decimal(value)}"] if value is not None else []
    accuracy = last_value(metrics, "train_mean_token_accuracy")
    parts += [f"token accuracy {accuracy:.1%}"] if accuracy is not None else []
    return ", ".join(parts) or "not reported yet"


def _curves(metrics: Sequence[TrainingMetrics]) -> tuple[tuple[str, str, str, str], ...]:
    """The curves to show; the full validation loss is left out if it equals the validation loss."""
    if _has_rewards(metrics):
        return _REWARD_CURVES
    is_same = all(m.full_valid_loss is None or m.full_valid_loss == m.valid_loss for m in metrics)
    return _CURVES[:2] if is_same else _CURVES


def _has_rewards(metrics: Sequence[TrainingMetrics]) -> bool:
    """Whether it is reinforcement, whose loss says little."""
    return any(metric.train_mean_reward is not None for metric in metrics)


def last_value(metrics: Sequence[TrainingMetrics], name: str) -> float | None:
    """The last value of a metric that was reported."""
    values = (getattr(metric, name) for metric in reversed(metrics))
    return next((value for value in values if value is not None), None)


def loss_chart(
    metrics: Sequence[TrainingMetrics], *, width: int = 80, height: int = 6, style: Styler = unstyled
) -> list[str]:
    """Training and validation loss over steps, in reinforcement the rewards; empty before the second step."""
    curves = []
    for label, style_name, marker, name in _curves(metrics):
        points = [(m.step, value) for m in metrics if (value := getattr(m, name)) is not None]
        if points:
            curves.append(Series(label, points, style_name, marker))
    if not curves or len(curves[0].points) < 2:
        return []
    return plot(curves, width=min(width, 100), height=height, style=style)


def failure_lines(run: Run | None, job: Job | None, style: Styler = unstyled) -> list[str]:
    """Why there is no model: the endpoint's error and its explanation."""
    error = job.error if job is not None else None
    if error is not None and (error.message or error.code):
        code, message = sanitize_line(error.code or "no code", 60), sanitize_line(error.message, 400)
        lines = ["", f"{style('error', 'error')}  {code}: {message}"]
        meaning = explain_error(error.code, error.message)
        if meaning:
            lines.append(f"  meaning: {meaning.what}")
            lines.append(f"  next: {meaning.next}")
        return lines
    if run is not None and run.error and (job is None or job.status != "cancelled"):
        return ["", f"{style('error', 'error')}  {sanitize_line(run.error, 400)}"]
    return []


def model_lines(model: Model, *, usage_lines: Sequence[str] = (), style: Styler = unstyled) -> list[str]:
    """A registered model and how to use it."""
    lines = [f"{style('bold', 'model')}  {style('ok', sanitize_line(model.id, 200))}"]
    if model.base_shutdown_date:
        lines.append(
            f"  available until {sanitize_line(model.base_shutdown_date, 20)}, when its base model is shut down"
        )
    return [*lines, *(f"  {line}" for line in usage_lines)]


def event_line(event: Event, style: Styler = unstyled) -> str:
    """One event: time, level, message."""
    style_name = {"error": "error", "warn": "warning", "warning": "warning"}.get(event.level, "dim")
    level = style(style_name, sanitize_line(event.level, 8).ljust(5))
    return f"{format_time(event.created_at, '%Y-%m-%d %H:%M:%S')}  {level}  {sanitize_line(event.message, 400)}"


def job_table(jobs: Sequence[Job], style: Styler = unstyled, *, width: int | None = None) -> list[str]:
    """Jobs as a table, one row each."""
    rows = [("job", "status", "created", "base", "model")]
    rows += [
        (
            sanitize_line(j.id, 60),
            sanitize_line(j.status, 30),
            format_time(j.created_at),
            sanitize_line(j.model, 40),
            sanitize_line(j.fine_tuned_model or "", 80),
        )
        for j in jobs
    ]
    return fit_table(rows, width=width, drop=(3, 2), style=style)


def sweep_lines(sweep: Sweep, style: Styler = unstyled, *, width: int = 80) -> Iterator[str]:
    """The trials as a table, with bars if there is space for them, then the model that the alias points to."""
    key = "score" if sweep.compared_by == "held-out score" else "valid_loss"
    values = [_trial_value(trial, key) for trial in sweep.trials]
    largest = max((value for value in values if value is not None and math.isfinite(value)), default=0.0)
    columns = [name for name in SWEEP_COLUMNS if any(_trial_value(trial, name) is not None for trial in sweep.trials)]
    has_cost = any(trial.cost != 0 for trial in sweep.trials)
    header = ["", "trial", *(SWEEP_COLUMNS[name] for name in columns), *["cost"] * has_cost, ""]
    rows = [_trial_row(trial, sweep, columns, has_cost=has_cost) for trial in sweep.trials]
    right = range(2, len(header) - 1)
    bar_width = min(BAR_WIDTH, width - 2 - table_width(format_table([header, *rows], right=right)))
    for row, trial, value in zip(rows, sweep.trials, values, strict=True):
        if trial.model:
            row[-1] = _sweep_bar(value, largest, bar_width)
    first, *rest = format_table([header, *rows], right=right)
    yield style("bold", first)
    for trial, line in zip(sweep.trials, rest, strict=True):
        yield style("ok", line) if trial.model == sweep.best_model else line
    yield ""
    best = sanitize_line(sweep.best_model, 200)
    yield f"best by {sweep.compared_by}: {sanitize_line(sweep.alias, 80)} → {best}"


def _trial_value(trial: Trial, name: str) -> float | None:
    value: float | None = getattr(trial, name)
    return value


def _sweep_bar(value: float | None, largest: float, width: int) -> str:
    if value is None or not math.isfinite(value) or largest <= 0 or width < MIN_BAR_WIDTH:
        return ""
    return "█" * max(1, round(width * value / largest))


def _trial_row(trial: Trial, sweep: Sweep, columns: Sequence[str], *, has_cost: bool) -> list[str]:
    """The cells of a trial; the last one is the state of a trial without a model."""
    marker = "→" if trial.model is not None and trial.model == sweep.best_model else ""
    cost = "free" if trial.cost == 0 else format_money(trial.cost, sanitize_line(sweep.currency, 8))
    numbers = (format_decimal(_trial_value(trial, name)) for name in columns)
    stopped = trial.stopped_after
    state = "" if trial.model else trial.state.value if stopped is None else f"stopped after {plural(stopped, 'epoch')}"
    return [marker, sanitize_line(trial.name, 80), *numbers, *[cost] * has_cost, state]
