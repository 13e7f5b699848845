"""Jobs, events and checkpoints as the API returns them.

Source: OpenAI API description, FineTuningJob and its companions, 2026-08-21.
"""

from __future__ import annotations

from typing import Any

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
        "status": job.status,
        "trained_tokens": job.trained_tokens,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "integrations": job.integrations or [],
        "seed": job.seed,
        "estimated_finish": job.estimated_finish,
        "method": _method(job, hyperparameters),
        "metadata": job.user_metadata,
        "user_provided_suffix": job.suffix,
    }


def _method(job: JobRow, hyperparameters: dict[str, Any]) -> dict[str, Any]:
    block: dict[str, Any] = {"hyperparameters": hyperparameters}
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
