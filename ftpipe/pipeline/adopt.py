"""Adopt a job that was created elsewhere, or before the registry was lost, as a run of this registry."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftpipe.errors import JobFailedError, ProviderError
from ftpipe.pipeline.current_status import as_requested
from ftpipe.providers.provider import Provider
from ftpipe.records import Checkpoint, Dataset, Hyperparameters, Job, Run, RunSpec, RunState, UploadedFile
from ftpipe.registry import Registry
from ftpipe.stages.register import model_record
from ftpipe.stages.upload import MAX_HASHED_BYTES

RUN_ID = re.compile(r"run-[0-9a-f]{12}")


def adopt(job_id: str, *, provider: Provider, registry: Registry) -> Run:
    """Save a job that was created elsewhere as a run; ``Pipeline.advance`` then waits for its end and its model.

    Raises:
        NotFoundError: The endpoint does not know the job.
    """
    known = registry.runs.find(job_id)
    if known is not None:
        return known
    job = provider.jobs.get(job_id)
    return start_adopted(job, registry=registry, files=SavedFiles(training=_file_of(job, provider)))


def adopt_listed(
    job: Job,
    *,
    file: UploadedFile | None,
    checkpoints: Sequence[Checkpoint],
    base_shutdown_date: str | None,
    has_model: bool,
    registry: Registry,
) -> None:
    """Save a job that was read from a list as a run, with its model if it has one; nothing is read from the endpoint.

    Doing it again saves what has changed. What the user has deleted from the registry stays deleted, and the latest run
    stays the latest.

    Args:
        job: The job.
        file: Its training file; ``None`` if it is gone.
        checkpoints: The job's checkpoints.
        base_shutdown_date: Day on which the model is shut down, ISO 8601.
        has_model: False if the model of the job was deleted at the endpoint.
        registry: Where it is saved.
    """
    run = registry.runs.find(job.id)
    if run is None:
        if registry.runs.is_deleted(job.endpoint, job.id):
            return
        run = start_adopted(job, registry=registry, files=SavedFiles(training=file), is_latest=False)
    if run.state != RunState.CREATED or run.job is None:
        return
    job = as_requested(run.job, job)
    if job != run.job:
        registry.jobs.save(job, run_id=run.id)
        run = registry.runs.save(run.model_copy(update={"job": job}))
    if not job.is_finished:
        return
    if job.status == "succeeded" and not has_model:
        registry.runs.save(run.model_copy(update={"state": RunState.DELETED}))
        return
    try:
        model = model_record(
            job,
            run=run,
            metrics=[point.metrics for point in sorted(checkpoints, key=lambda point: point.step)],
            checkpoints=checkpoints,
            base_shutdown_date=base_shutdown_date,
        )
    except JobFailedError as exc:
        registry.runs.save(run.model_copy(update={"state": RunState.FAILED, "error": exc.message}))
    else:
        registry.runs.register(model, run, price_row="")


@dataclass(frozen=True)
class SavedFiles:
    """What is known about the files of a job that was created elsewhere."""

    training: UploadedFile | None = None
    """At the endpoint."""
    training_data: Dataset | None = None
    """The same on this machine."""
    validation: UploadedFile | None = None
    validation_data: Dataset | None = None


def start_adopted(job: Job, *, registry: Registry, files: SavedFiles, is_latest: bool = True) -> Run:
    """Save a job and a run for it; a second call with the same job returns the run of the first."""
    file, data, validation = files.training, files.training_data, files.validation_data
    spec = RunSpec(
        provider=job.provider,
        data=data.path if data else Path((file.filename if file else "") or job.training_file),
        validation=validation.path if validation else None,
        model=job.model,
        method=job.method,
        hyperparameters=job.resolved or Hyperparameters(),
        suffix=job.suffix,
        seed=job.seed,
    )
    run = Run(
        id=_run_id(job, registry),
        spec=spec,
        endpoint=job.endpoint,
        state=RunState.CREATED,
        created_at=job.created_at,
        dataset_sha256=file.sha256 if file else "",
        validation_sha256=files.validation.sha256 if files.validation else None,
        dataset=data,
        validation=validation,
        file=file,
        validation_file=files.validation,
        job=job,
    )
    registry.jobs.save(job, run_id=run.id)
    return registry.runs.start(run, key=f"adopted:{job.endpoint}:{job.id}", ordinal=0, is_latest=is_latest)


def _run_id(job: Job, registry: Registry) -> str:
    """The id that the job's metadata give its run, unless this registry has another run of that id."""
    run_id = job.metadata.get("ftpipe_run", "")
    if RUN_ID.fullmatch(run_id) and registry.runs.find(run_id) is None:
        return run_id
    return f"run-{secrets.token_hex(6)}"


def _file_of(job: Job, provider: Provider) -> UploadedFile | None:
    """The training file of a job, hashed if the endpoint serves its content; ``None`` if it is gone."""
    try:
        file = provider.files.get(job.training_file)
        content = provider.files.content(file.id) if file.bytes <= MAX_HASHED_BYTES else b""
    except ProviderError:
        return None
    return UploadedFile(
        id=file.id,
        endpoint=provider.endpoint,
        sha256=hashlib.sha256(content).hexdigest() if content else "",
        bytes=file.bytes,
        filename=file.filename,
        created_at=file.created_at,
    )
