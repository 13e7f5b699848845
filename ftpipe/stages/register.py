"""Register the model of a succeeded job with its lineage, cost and last metrics."""

from __future__ import annotations

from collections.abc import Iterable

from ftpipe.errors import JobFailedError, ProviderError, StillRunningError
from ftpipe.providers.provider import Provider
from ftpipe.records import Checkpoint, CostEstimate, Job, Model, Run, TrainingMetrics
from ftpipe.registry import Registry


def register(job: Job, *, run: Run, provider: Provider, registry: Registry, metrics: Iterable[TrainingMetrics]) -> Run:
    """Save the model of a succeeded job with its cost, in one transaction; doing it again changes nothing.

    Raises:
        JobFailedError: The job ended without a model.
        StillRunningError: The job has not finished.
        LocalStateError: The database cannot be written.
    """
    model = model_of(job, run=run, provider=provider, metrics=metrics)
    price_row = run.cost.model_dump_json() if run.cost else ""
    return registry.runs.register(model, run.model_copy(update={"job": job}), price_row=price_row)


def model_of(job: Job, *, run: Run, provider: Provider, metrics: Iterable[TrainingMetrics]) -> Model:
    """Build the model's record; nothing is written.

    Args:
        job: A job that has succeeded.
        run: The run that it belongs to.
        provider: Its endpoint, which lists checkpoints and knows when the base model is shut down.
        metrics: What the job reported, by step.

    Raises:
        JobFailedError: The job ended without a model.
        StillRunningError: The job has not finished.
    """
    return model_record(
        job, run=run, metrics=metrics, checkpoints=_checkpoints(job, provider),
        base_shutdown_date=_shutdown_date(job, provider),
    )  # fmt: skip


def model_record(
    job: Job,
    *,
    run: Run,
    metrics: Iterable[TrainingMetrics],
    checkpoints: Iterable[Checkpoint],
    base_shutdown_date: str | None,
) -> Model:
    """Build the model's record from what was read before; see ``model_of``.

    Raises:
        JobFailedError: The job ended without a model.
        StillRunningError: The job has not finished.
    """
    refuse_unless_succeeded(job)
    return Model(
        id=job.fine_tuned_model or "",
        base=job.model or run.spec.model,
        provider=job.provider,
        endpoint=job.endpoint,
        method=job.method,
        job_id=job.id,
        file_id=job.training_file,
        dataset_sha256=run.dataset_sha256,
        validation_sha256=run.validation_sha256,
        run_id=run.id,
        requested=job.requested or run.spec.hyperparameters,
        resolved=job.resolved,
        seed=job.seed if job.seed is not None else run.spec.seed,
        trained_tokens=job.trained_tokens,
        currency=run.cost.currency if run.cost else "USD",
        estimated_cost=run.cost.expected if run.cost else None,
        actual_cost=actual_cost(job, run.cost),
        metrics=last_metrics(metrics),
        checkpoints=tuple(checkpoints),
        base_shutdown_date=base_shutdown_date,
        predecessor=run.spec.predecessor,
        created_at=job.finished_at or job.created_at,
    )


def refuse_unless_succeeded(job: Job) -> None:
    """Raise unless the job has ended with a model.

    Raises:
        JobFailedError: It ended without one.
        StillRunningError: It has not finished.
    """
    if job.status in ("failed", "cancelled"):
        why = f": {job.error.message}" if job.error and job.error.message else ""
        code = f" ({job.error.code})" if job.error and job.error.code else ""
        raise JobFailedError(f"{job.id} {job.status}{code}{why}", failure_hint(job))
    if not job.is_finished:
        raise StillRunningError(
            f"{job.id} is {job.status}", f"`ftpipe status {job.id}` shows it, `ftpipe resume` waits for its end"
        )


CHECK_DATASET = "run `ftpipe prepare` to see the lines; if it finds nothing wrong, please report the message above"

HINTS: dict[str, str] = {
    "invalid_n_examples": "add examples; `ftpipe prepare` counts them as the endpoint does",
    "invalid_training_file": CHECK_DATASET,
    "invalid_validation_file": "run `ftpipe prepare --validation …` to see the lines of the validation file",
    "invalid_file_format": CHECK_DATASET,
    "unsafe_file": "the endpoint's safety checks refused the data; remove the flagged examples, then train again",
    "exceeded_quota": "add credit or raise the budget at the endpoint, then run `ftpipe train` again",
    "insufficient_quota": "add credit or raise the budget at the endpoint, then run `ftpipe train` again",
    "server_error": "the endpoint had an internal error; run `ftpipe train` again to create a new job",
}
"""Error code of a job → what to do. Source: public run logs, 2024-12 to 2026-09."""


def failure_hint(job: Job) -> str:
    """What to do after a job has ended without a model."""
    if job.status == "cancelled":
        return "run `ftpipe train` again to create a new job"
    code = job.error.code if job.error else ""
    return HINTS.get(code, f"see `ftpipe jobs events {job.id}`; run `ftpipe train` again to create a new job")


def actual_cost(job: Job, cost: CostEstimate | None) -> float | None:
    """What the endpoint says, else trained tokens times the estimate's price; ``None`` if neither is known."""
    if job.price is not None:
        return job.price
    if cost is None or cost.price_per_million is None or job.trained_tokens is None:
        return None
    return round(job.trained_tokens * cost.price_per_million / 1_000_000, 6)


def last_metrics(metrics: Iterable[TrainingMetrics]) -> TrainingMetrics | None:
    """The last value of each metric, at the last step; ``None`` if nothing was reported."""
    last: dict[str, float | int] = {}
    for metric in metrics:
        last.update({name: value for name, value in metric.model_dump().items() if value is not None})
    return TrainingMetrics.model_validate(last) if "step" in last else None


def _checkpoints(job: Job, provider: Provider) -> tuple[Checkpoint, ...]:
    try:
        return tuple(provider.jobs.checkpoints(job.id))
    except ProviderError:
        return ()  # a model is not lost because its checkpoints cannot be listed


def _shutdown_date(job: Job, provider: Provider) -> str | None:
    try:
        date = provider.models.shutdown_date(job.model)
    except ProviderError:
        date = None
    return date or provider.profile.models_shutdown_date
