"""What a page shows of a run: its state in words, its stages, its figures, and its curves as a sentence."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ftpipe.formatting import duration, format_decimal, format_money
from ftpipe.records import Hyperparameters, Job, Run, RunState
from ftpipe.records.job import PAUSE_REQUESTED
from ftpipe.reports.models import cost_of
from ftpipe.reports.provider_error_codes import explain_error
from ftpipe.ui.curves import Curve, CurveCache

SPARK_POINTS = 60
SPARK_WIDTH, SPARK_HEIGHT = 100, 24
MAX_SUMMARIES = 5000
"""Summaries of jobs that have ended, which do not change; each has some hundred bytes."""
SUMMARY_BUDGET_SECONDS = 0.3
"""How long a list may read curves; the rows that are left over are filled in one by one."""
STAGES = ("data checked", "uploaded", "job created", "training", "model registered")
WAITING = frozenset({"validating_files", "queued"})
GROUPS = ("loss", "accuracy", "reward", "kl", "tokens")
"""Charts, by what their metrics' names end with or have in them."""
REINFORCEMENT_FIGURES = ("kl", "completion_tokens_mean", "zero_std_fraction")
"""Figures of a run besides its rewards, in the API's names."""
HYPERPARAMETER_NAMES = {
    "n_epochs": "epochs",
    "lora_r": "LoRA rank",
    "lora_alpha": "LoRA alpha",
    "lora_dropout": "LoRA dropout",
    "target_modules": "layers with an adapter",
    "max_length": "maximum tokens of a row",
}
CURVE_NAMES = {
    "train_loss": "train",
    "valid_loss": "validation",
    "full_valid_loss": "full validation",
    "train_mean_token_accuracy": "train",
    "valid_mean_token_accuracy": "validation",
    "full_valid_mean_token_accuracy": "full validation",
    "train_mean_reward": "train",
    "valid_mean_reward": "validation",
    "full_valid_mean_reward": "full validation",
    "completion_tokens_mean": "completion tokens mean",
}


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a run."""

    word: str
    style: str
    """Class of the style sheet: ``running``, ``succeeded``, ``failed``, ``cancelled``, ``paused`` or nothing."""


def status_of(run: Run, *, is_starting: bool = False) -> Status:
    """The state of a run, from its job if it has one.

    Args:
        run: The run.
        is_starting: Whether a command runs that will create its job.
    """
    if is_starting and run.job is None:
        return Status("starting", "")
    if run.state == RunState.REGISTERED:
        return Status("succeeded", "succeeded")
    if run.job is None:
        return Status("failed", "failed") if run.state == RunState.FAILED else Status("not started", "")
    word = run.job.status
    if word in WAITING:
        return Status(word.replace("_", " "), "")
    return Status(
        word.replace("_", " "), word if word in ("running", "succeeded", "failed", "cancelled", "paused") else ""
    )


def is_open(run: Run) -> bool:
    """Whether the run's job can still change."""
    return run.state == RunState.CREATED and run.job is not None and not run.job.is_finished


def activity_of(run: Run, last_message: str, open_runs: Iterable[Run]) -> str:
    """What an open run does or waits for, if its figures do not say it; else empty.

    Args:
        run: The run.
        last_message: Its latest event that is not about a step.
        open_runs: All runs whose jobs can still change.
    """
    if run.job is None or not is_open(run):
        return ""
    if run.job.status in WAITING:
        others = [one for one in open_runs if one.id != run.id and one.endpoint == run.endpoint and one.job]
        running = [name_of(one) for one in others if one.job and one.job.status == "running"]
        before = [one for one in others if one.job and one.job.status in WAITING and one.created_at < run.created_at]
        if running:
            also = f" Of the runs that wait, {len(before)} began earlier." if before else ""
            return f"It waits for {', '.join(running[:3])}, which trains now.{also}"
    return last_message


def is_pausing(run: Run, last_message: str) -> bool:
    """Whether the job runs until its next step, and pauses then."""
    return run.job is not None and run.job.status == "running" and last_message == PAUSE_REQUESTED


def name_of(run: Run) -> str:
    """What a list calls a run: its suffix, else its data."""
    return run.spec.suffix or run.spec.data.name or run.id


def stages_of(run: Run) -> list[tuple[str, str]]:
    """Each stage with ``done``, ``current``, ``waiting`` or nothing."""
    done = {RunState.PREPARED: 1, RunState.UPLOADED: 2, RunState.CREATED: 3, RunState.REGISTERED: 5}.get(run.state, 0)
    if run.job is not None:
        done = max(done, 3)
        done = 4 if done < 5 and run.job.status == "succeeded" else done
    is_over = run.state == RunState.FAILED or (run.job is not None and run.job.status in ("failed", "cancelled"))
    styles = ["done" if number < done else "" for number in range(len(STAGES))]
    if done < len(STAGES) and not is_over:
        is_waiting = run.job is not None and run.job.status in (*WAITING, "paused")
        styles[done] = "waiting" if is_waiting else "current"
    return list(zip(STAGES, styles, strict=True))


@dataclass(frozen=True, slots=True)
class Summary:
    """A run's curve in a few figures and a small drawing."""

    measure: str = "loss"
    """``loss``, or in reinforcement ``reward``; ``train``, ``valid`` and ``best_valid`` are values of it."""
    step: int | None = None
    total_steps: int | None = None
    train: float | None = None
    valid: float | None = None
    best_valid: float | None = None
    train_line: str = ""
    """Points of an SVG polyline."""
    valid_line: str = ""
    others: tuple[tuple[str, float], ...] = ()
    """Further figures by name."""


def summarize(curve: Curve) -> Summary:
    """The summary of a curve."""
    measure, train_name = ("reward", "train_mean_reward") if has_rewards(curve) else ("loss", "train_loss")
    best = curve.best(validation_name(curve), highest=measure == "reward")
    train = curve.points(train_name, limit=SPARK_POINTS)
    valid = curve.points(validation_name(curve), limit=SPARK_POINTS)
    values = [*train[1], *valid[1]]
    box = (curve.steps[0], curve.steps[-1], min(values), max(values)) if values else (0, 0, 0.0, 0.0)
    others = [(name, value) for name in REINFORCEMENT_FIGURES if (value := curve.last(name)) is not None]
    return Summary(
        measure=measure,
        step=curve.last_step,
        total_steps=curve.total_steps,
        train=curve.last(train_name),
        valid=curve.last(validation_name(curve)),
        best_valid=best[1] if best else None,
        train_line=_polyline(*train, box),
        valid_line=_polyline(*valid, box),
        others=tuple((name.replace("_", " "), value) for name, value in others),
    )


def has_rewards(curve: Curve) -> bool:
    """Whether it is the curve of reinforcement."""
    return "train_mean_reward" in curve.columns


def validation_name(curve: Curve) -> str:
    """The metric of the validation loss or reward: over all of the data if the job reports it."""
    name = "mean_reward" if has_rewards(curve) else "loss"
    return f"full_valid_{name}" if f"full_valid_{name}" in curve.columns else f"valid_{name}"


def _polyline(steps: Sequence[int], values: Sequence[float], box: tuple[int, int, float, float]) -> str:
    if len(steps) < 2:
        return ""
    left, right, low, high = box
    across, up = (right - left) or 1, (high - low) or 1.0
    return " ".join(
        f"{(step - left) / across * SPARK_WIDTH:.1f},{SPARK_HEIGHT - 1 - (value - low) / up * (SPARK_HEIGHT - 2):.1f}"
        for step, value in zip(steps, values, strict=True)
    )


class SummaryCache:
    """Summaries of jobs that have ended; those of others are made anew."""

    def __init__(self) -> None:
        self._summaries: OrderedDict[tuple[str, str], Summary] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, job: Job, curves: CurveCache, *, deadline: float | None = None) -> Summary | None:
        """The summary of a job; ``None`` if it would have to be read after a deadline (monotonic seconds)."""
        key = (job.endpoint, job.id)
        with self._lock:
            known = self._summaries.get(key)
        if known is not None:
            return known
        if deadline is not None and time.monotonic() > deadline:
            return None
        summary = summarize(curves.read(job))
        if job.is_finished:
            with self._lock:
                self._summaries[key] = summary
                if len(self._summaries) > MAX_SUMMARIES:
                    self._summaries.popitem(last=False)
        return summary


def groups_of(curves: Iterable[Curve]) -> list[str]:
    """The charts that these curves have values for; that of losses if there are none, and that of rewards first."""
    names = {name for curve in curves for name in curve.columns}
    groups = [group for group in GROUPS if any(_is_in(name, group) for name in names)] or [GROUPS[0]]
    return sorted(groups, key=lambda group: group != "reward")


def _is_in(name: str, group: str) -> bool:
    if group in ("reward", "tokens"):
        return group in name and not name.endswith(("loss", "accuracy", "second"))
    return name == group if group == "kl" else name.endswith(group)


def chart_data(
    runs: Sequence[tuple[Run, Curve]], group: str, *, start: int | None = None, end: int | None = None
) -> dict[str, Any]:
    """A chart's series with a common axis of steps, and its marks.

    Args:
        runs: The run of the page, then those that it is compared with.
        group: One of ``GROUPS``.
        start: First step; ``None`` for all.
        end: Last step; ``None`` for all.
    """
    series: list[dict[str, Any]] = []
    points: list[dict[int, float]] = []
    for number, (run, curve) in enumerate(runs):
        for name in (name for name in CURVE_NAMES | dict.fromkeys(curve.columns, "") if _is_in(name, group)):
            steps, values = curve.points(name, start=start, end=end)
            if steps:
                label = CURVE_NAMES.get(name) or name.replace("_", " ")
                series.append({"run": number, "label": f"{name_of(run)}: {label}" if len(runs) > 1 else label})
                series[-1]["is_validation"] = "valid" in name
                points.append(dict(zip(steps, values, strict=True)))
    steps = sorted(set().union(*points)) if points else []
    run, curve = runs[0]
    return {
        "series": series,
        "steps": steps,
        "values": [[values.get(step) for step in steps] for values in points],
        "epochs": epoch_steps(run, curve),
        "checkpoints": [checkpoint.step for checkpoint in run.model.checkpoints] if run.model else [],
        "total": curve.total_steps,
        "sentence": chart_sentence(curve, group),
    }


def epoch_steps(run: Run, curve: Curve) -> list[float]:
    """The steps at which a further epoch begins."""
    known = (run.job.resolved if run.job else None) or run.spec.hyperparameters
    epochs, total = known.n_epochs, curve.total_steps
    if not isinstance(epochs, int) or not total:
        return []
    return [round(total * number / epochs, 1) for number in range(1, epochs)]


def chart_title(group: str) -> str:
    """The heading of a chart."""
    return {"kl": "KL divergence", "tokens": "Tokens of an answer"}.get(group, group.capitalize())


def chart_sentence(curve: Curve, group: str) -> str:
    """What a chart shows, for those who do not see it."""
    if curve.last_step is None:
        return "No values were reported yet."
    total = f" of {curve.total_steps:,}" if curve.total_steps else ""
    parts = [f"{chart_title(group)} up to step {curve.last_step:,}{total}."]
    for name in (name for name in curve.columns if _is_in(name, group)):
        _, values = curve.points(name, limit=4)
        label = CURVE_NAMES.get(name) or name.replace("_", " ")
        parts.append(f"{label.capitalize()} from {format_decimal(values[0])} to {format_decimal(values[-1])}.")
    is_reward = has_rewards(curve)
    best = (
        curve.best(validation_name(curve), highest=is_reward) if group == ("reward" if is_reward else "loss") else None
    )
    if best is not None:
        extreme = "reward was highest" if is_reward else "loss was lowest"
        parts.append(f"The validation {extreme} at step {best[0]:,}: {format_decimal(best[1])}.")
    return " ".join(parts)


def hyperparameter_rows(run: Run) -> list[tuple[str, str, str]]:
    """Name, requested and resolved value of each hyperparameter that either has."""
    requested = run.spec.hyperparameters
    resolved = run.job.resolved if run.job else None
    names = [name for name in Hyperparameters.model_fields if name != "extra"]
    rows = [(name, _value(getattr(requested, name)), _value(getattr(resolved, name, None))) for name in names]
    extra = {**requested.extra, **(resolved.extra if resolved else {})}
    rows += [
        (name, _value(requested.extra.get(name)), _value(resolved.extra.get(name) if resolved else None))
        for name in extra
    ]
    return [
        (HYPERPARAMETER_NAMES.get(name, name.replace("_", " ")), asked, used)
        for name, asked, used in rows
        if asked or used
    ]


def _value(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        ", ".join(map(str, value))
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def remaining_text(run: Run, now: float) -> str:
    """How long the job will take, by its endpoint's estimate."""
    job = run.job
    if job is None or job.estimated_finish is None or job.is_finished or job.status != "running":
        return ""
    return f"about {duration(job.estimated_finish - now)}"


def cost_text(run: Run) -> str:
    """What the run has cost, else the estimate."""
    model = run.model
    if model is not None and (model.actual_cost is not None or model.estimated_cost is not None):
        return cost_of(model)
    if run.job is not None and run.job.price is not None:
        return format_money(run.job.price)
    if run.cost is None or run.cost.expected is None:
        return "unknown"
    return "free" if run.cost.price_per_million == 0 else f"~{format_money(run.cost.expected, run.cost.currency)}"


def estimate_text(run: Run) -> str:
    """The estimate beside an actual cost; empty if there is no actual one, or nothing to pay."""
    has_actual = (run.model is not None and run.model.actual_cost) or (run.job is not None and run.job.price)
    if not has_actual or run.cost is None or run.cost.expected is None:
        return ""
    return f"estimated {format_money(run.cost.expected, run.cost.currency)}"


def failure_text(run: Run) -> list[str]:
    """Why there is no model: the error, what it means, and what to do."""
    error = run.job.error if run.job is not None else None
    if error is None or not (error.code or error.message):
        return [run.error]
    meaning = explain_error(error.code, error.message)
    lines = [": ".join(part for part in (error.code, error.message) if part)]
    return [*lines, f"It means: {meaning.what}", f"Next: {meaning.next}"] if meaning else lines
