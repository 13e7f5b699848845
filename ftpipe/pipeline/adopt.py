"""Adopt a job that was created elsewhere, or before the registry was lost, as a run of this registry."""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path

from ftpipe.errors import ProviderError
from ftpipe.providers.provider import Provider
from ftpipe.records import Hyperparameters, Job, Run, RunSpec, RunState, UploadedFile
from ftpipe.registry import Registry
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
    file = _file_of(job, provider)
    spec = RunSpec(
        provider=provider.profile.name,
        data=Path(file.filename if file else job.training_file),
        model=job.model,
        method=job.method,
        hyperparameters=job.resolved or Hyperparameters(),
        suffix=job.suffix,
        seed=job.seed,
    )
    run = Run(
        id=_run_id(job, registry),
        spec=spec,
        endpoint=provider.endpoint,
        state=RunState.CREATED,
        created_at=job.created_at,
        dataset_sha256=file.sha256 if file else "",
        file=file,
        job=job,
    )
    registry.jobs.save(job, run_id=run.id)
    return registry.runs.start(run, key=f"adopted:{provider.endpoint}:{job_id}", ordinal=0)


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
