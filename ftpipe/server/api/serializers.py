"""Jobs, events and checkpoints as the API returns them.

Source: OpenAI API description, FineTuningJob and its companions, 2026-08-21.
"""

from __future__ import annotations

from typing import Any

from ftpipe.server.clock import now
from ftpipe.server.storage import CheckpointRow, EventRow, JobRow

COMMON = ("n_epochs", "batch_size", "learning_rate_multiplier")


def serialize_job(job: JobRow) -> dict[str, Any]:
    """A job."""
    hyperparameters = {**job.requested_hyperparameters, **(job.resolved_hyperparameters or {})}
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": job.created_at,
        "error": job.error,
        "fine_tuned_model": job.fine_tuned_model,
        "finished_at": job.finished_at,
        "hyperparameters": {name: hyperparameters.get(name, "auto") for name in COMMON},
        "model": job.model,
        "organization_id": f"org-{job.owner}",
        "result_files": [job.result_file] if job.result_file else [],
        "status": "queued" if job.status == "paused" else job.status,
        "trained_tokens": job.trained_tokens,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "integrations": job.integrations or [],
        "seed": job.seed,
        "estimated_finish": _estimated_finish(job),
        "method": _method(job, hyperparameters),
        "metadata": job.user_metadata,
        "user_provided_suffix": job.suffix,
        **_own_state(job),
    }


def _own_state(job: JobRow) -> dict[str, Any]:
    """``x_ftpipe`` of a paused job: strict clients refuse a status that is not in the API's list."""
    return {"x_ftpipe": {"paused": True, "reason": job.pause_reason}} if job.status == "paused" else {}


def _estimated_finish(job: JobRow) -> int | None:
    """When a running job ends; ``None`` if that is not known, as for a job that takes longer than was estimated."""
    is_known = job.status == "running" and job.estimated_finish is not None and job.estimated_finish > now()
    return job.estimated_finish if is_known else None


def _method(job: JobRow, hyperparameters: dict[str, Any]) -> dict[str, Any]:
    block: dict[str, Any] = {"hyperparameters": hyperparameters}
    if job.grader is not None:
        block["grader"] = job.grader
    return {"type": job.method, job.method: block}


def serialize_event(event: EventRow) -> dict[str, Any]:
    """An event."""
    return {
        "object": "fine_tuning.job.event",
        "id": event.id,
        "created_at": event.created_at,
        "level": event.level,
        "message": event.message,
        "type": event.type,
        "data": event.data or {},
    }


def serialize_checkpoint(checkpoint: CheckpointRow) -> dict[str, Any]:
    """A checkpoint."""
    return {
        "object": "fine_tuning.job.checkpoint",
        "id": checkpoint.id,
        "created_at": checkpoint.created_at,
        "fine_tuned_model_checkpoint": checkpoint.model_name,
        "fine_tuning_job_id": checkpoint.job_id,
        "metrics": checkpoint.metrics,
        "step_number": checkpoint.step,
    }
