"""Adopt: a job that was made elsewhere, or that a lost registry had known, becomes a run of this registry."""

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
    """Take a job that was made elsewhere into the registry; ``Pipeline.advance`` then waits for it and its model.

    Raises:
        NotFoundError: The endpoint does not know the job.
    """
    known = registry.find_run(job_id)
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
    registry.save_job(job, run_id=run.id)
    return registry.start_run(run, key=f"adopted:{provider.endpoint}:{job_id}", ordinal=0)


def _run_id(job: Job, registry: Registry) -> str:
    """The id that the job says its run had, where this registry has no other run of that name."""
    named = job.metadata.get("ftpipe_run", "")
    if RUN_ID.fullmatch(named) and registry.find_run(named) is None:
        return named
    return f"run-{secrets.token_hex(6)}"


def _file_of(job: Job, provider: Provider) -> UploadedFile | None:
    """The training file of a job made elsewhere, hashed where the endpoint serves it; ``None`` where it is gone."""
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
