"""What the store hands out: one frozen record per table row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FileRow:
    """A stored file; its bytes lie beside the database under its id."""

    id: str
    owner: str
    filename: str
    purpose: str
    bytes: int
    sha256: str
    created_at: int
    expires_at: int | None = None
    seq: int = 0


@dataclass(frozen=True, slots=True)
class UploadRow:
    """An upload that is put together from parts."""

    id: str
    owner: str
    filename: str
    purpose: str
    bytes: int
    """The size that was announced."""
    mime_type: str
    status: str
    created_at: int
    expires_at: int
    file_expires_after: int | None = None
    """How long the finished file shall live, in seconds; ``None`` for ever."""
    file_id: str | None = None
    seq: int = 0


@dataclass(frozen=True, slots=True)
class PartRow:
    """One part of an upload."""

    id: str
    upload_id: str
    bytes: int
    created_at: int
    seq: int = 0


@dataclass(frozen=True, slots=True)
class JobRow:
    """A fine-tuning job, with what the supervisor needs to carry it through a crash."""

    id: str
    owner: str
    created_at: int
    model: str
    """As asked."""
    base: str
    """What really serves it: the default base, a hub id or a folder."""
    model_name: str
    """The name that the model will have."""
    method: str
    training_file: str
    validation_file: str | None
    suffix: str | None
    seed: int
    requested_hyperparameters: dict[str, Any]
    resolved_hyperparameters: dict[str, Any] | None = None
    integrations: list[dict[str, Any]] | None = None
    user_metadata: dict[str, str] | None = None
    status: str = "validating_files"
    desired_state: str = "run"
    """``run``, ``pause`` or ``cancel``: what the owner asked for last."""
    validated: bool = False
    """True once the files have passed."""
    has_trainer: bool = False
    """True from before a trainer is started until it is known to be gone."""
    attempts: int = 0
    """Starts in a row that ended without a new step."""
    attempt_step: int = 0
    events_offset: int = 0
    """Bytes of the trainer's event file that are already in the events table."""
    started_at: int | None = None
    finished_at: int | None = None
    estimated_finish: int | None = None
    trained_tokens: int | None = None
    fine_tuned_model: str | None = None
    final_step: int | None = None
    error: dict[str, Any] | None = None
    result_file: str | None = None
    deleted: bool = False
    """True once its model was deleted."""
    seq: int = 0


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event of a job."""

    id: str
    job_id: str
    created_at: int
    level: str
    type: str
    message: str
    data: dict[str, Any] | None = None
    seq: int = 0


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """A checkpoint that answers as a model while its files are kept."""

    id: str
    job_id: str
    created_at: int
    step: int
    model_name: str
    metrics: dict[str, float]
    removed: bool = False
    seq: int = 0


@dataclass(frozen=True, slots=True)
class PermissionRow:
    """Another project's leave to use a checkpoint."""

    id: str
    checkpoint: str
    project_id: str
    created_at: int
    seq: int = 0


@dataclass(frozen=True, slots=True)
class CompletionRow:
    """A chat answer that was asked to be stored."""

    id: str
    owner: str
    model: str
    created_at: int
    user_metadata: dict[str, str]
    body: dict[str, Any]
    seq: int = 0


@dataclass(frozen=True, slots=True)
class IdempotencyRow:
    """The answer given under an Idempotency-Key."""

    owner: str
    key: str
    fingerprint: str
    status: int
    body: dict[str, Any]
    created_at: int
