"""The exported form of a run: parameters, curves, scores and lineage."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import Field

from ftpipe.records import Model, Record, TrainingMetrics
from ftpipe.records.evaluation import ArmResult, Evaluation

Scalar = str | int | float | bool


class ExportedRun(Record):
    """One run, in the terms that all tools share."""

    id: str
    """Stable, so that a second export does not create a second run; letters, digits and dashes."""
    name: str
    """Display name."""
    kind: str
    """``training`` or ``evaluation``."""
    group: str = ""
    """Groups runs: an evaluation's id, or a dataset's digest."""
    started_at: int
    """UTC Unix seconds."""
    params: dict[str, Scalar] = Field(default_factory=dict)
    curves: tuple[tuple[int, dict[str, float]], ...] = ()
    """Step and the values at that step."""
    scores: dict[str, float] = Field(default_factory=dict)
    """Values about the whole run; an interval is three of them: ``x``, ``x_low``, ``x_high``."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Lineage: names and digests."""
    report: Path | None = None
    """An HTML report to attach."""


def training_run(model: Model, metrics: Sequence[TrainingMetrics]) -> ExportedRun:
    """The run of a registered model's training job."""
    return ExportedRun(
        id=_id("training", model.endpoint, model.job_id),
        name=model.id,
        kind="training",
        group=model.dataset_sha256[:16],
        started_at=model.created_at,
        params=_parameters(model),
        curves=tuple(_curve(metrics)),
        scores=_finite({"trained_tokens": model.trained_tokens, "cost": model.actual_cost}),
        tags=_lineage(model),
    )


def evaluation_runs(
    evaluation: Evaluation,
    models: Mapping[str, Model],
    curves: Mapping[str, Sequence[TrainingMetrics]],
    report: Path | None = None,
) -> list[ExportedRun]:
    """An evaluation as one run per arm, so that a tool can compare them.

    Args:
        evaluation: The evaluation.
        models: Arm name → its registered model.
        curves: Arm name → its job's metrics.
        report: The evaluation's HTML report.
    """
    return [
        _arm(evaluation, result, models.get(result.arm.name), curves.get(result.arm.name, ()), report)
        for result in evaluation.arms
    ]


def _arm(
    evaluation: Evaluation,
    result: ArmResult,
    model: Model | None,
    metrics: Sequence[TrainingMetrics],
    report: Path | None,
) -> ExportedRun:
    name = result.arm.name
    sampling = {
        f"sampling.{key}": value for key, value in evaluation.sampling.model_dump().items() if value is not None
    }
    params = {"model": result.arm.model, "task": evaluation.task.value}
    role = "baseline" if name == evaluation.baseline else "control" if result.arm.is_control else "candidate"
    about = {"evaluation": evaluation.id, "data": evaluation.data, "data_sha256": evaluation.data_sha256, "arm": role}
    verdict = {} if role == "baseline" else {"verdict": evaluation.primary_comparison(name).verdict}
    return ExportedRun(
        id=_id("evaluation", evaluation.id, name),
        name=name,
        kind="evaluation",
        group=evaluation.id,
        started_at=evaluation.created_at,
        params={
            **(_parameters(model) if model else {}),
            **sampling,
            **params,
        },
        curves=tuple(_curve(metrics)),
        scores=_scores(evaluation, result),
        tags={**(_lineage(model) if model else {"model": result.arm.model}), **about, **verdict},
        report=report,
    )


def _scores(evaluation: Evaluation, result: ArmResult) -> dict[str, float]:
    """Each metric with its interval; for a challenger also the difference from the baseline."""
    scores: dict[str, float | None] = {"eval/items": len(evaluation.outcomes) or result.scores[0].items}
    for score in result.scores:
        scores |= _interval(f"eval/{score.metric}", score.value, score.low, score.high)
    for one in evaluation.comparisons:
        if (one.challenger, one.baseline) == (result.arm.name, evaluation.baseline):
            scores |= _interval(f"difference/{one.metric}", one.difference, one.low, one.high)
            scores[f"difference/{one.metric}_p"] = one.p_value_adjusted
    usage = result.usage
    scores |= {"latency_p50_s": usage.latency_p50_s, "latency_p95_s": usage.latency_p95_s}
    scores["cost_per_request"] = usage.cost_per_request
    return _finite(scores)


def _interval(name: str, value: float, low: float | None, high: float | None) -> dict[str, float | None]:
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _parameters(model: Model) -> dict[str, Scalar]:
    """Base model, provider, and the hyperparameters as requested and as resolved."""
    params: dict[str, Scalar] = {"base": model.base, "provider": model.provider, "method": model.method.value}
    for hyperparameters in (model.requested, model.resolved):
        if hyperparameters is not None:
            named = hyperparameters.model_dump(exclude={"extra"}, exclude_none=True)
            joined = {name: ",".join(value) if isinstance(value, tuple) else value for name, value in named.items()}
            params |= {**joined, **hyperparameters.extra}
    return params | ({} if model.seed is None else {"seed": model.seed})


def _lineage(model: Model) -> dict[str, str]:
    tags = {
        "model": model.id,
        "base": model.base,
        "job": model.job_id,
        "file": model.file_id,
        "dataset_sha256": model.dataset_sha256,
        "validation_sha256": model.validation_sha256 or "",
        "run": model.run_id or "",
        "aliases": ",".join(model.aliases),
        "base_shutdown_date": model.base_shutdown_date or "",
    }
    return {name: value for name, value in tags.items() if value}


def _curve(metrics: Iterable[TrainingMetrics]) -> Iterable[tuple[int, dict[str, float]]]:
    for metric in sorted(metrics, key=lambda one: one.step):
        values = _finite(metric.model_dump(exclude={"step", "total_steps"}))
        if values:
            yield metric.step, values


def _finite(values: Mapping[str, float | None]) -> dict[str, float]:
    """The finite values; no tool can plot the others."""
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}


def _id(*parts: str) -> str:
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return f"ftpipe-{digest[:16]}"
