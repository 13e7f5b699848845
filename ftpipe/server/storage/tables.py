"""The server's tables, each declared once, as the record that a row is read into."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import JSON, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

_JSON = JSON(none_as_null=True)
_AUTOINCREMENT: Any = {"sqlite_autoincrement": True}
"""A number is never used again, not even after the last row is deleted: pages are read by number."""


RESULT_PURPOSE = "fine-tune-results"
"""The purpose of files that jobs make."""


class Base(MappedAsDataclass, DeclarativeBase):
    """Parent of all tables."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {
        dict[str, Any]: _JSON,
        dict[str, str]: _JSON,
        dict[str, float]: _JSON,
        list[dict[str, Any]]: _JSON,
    }


class Row(Base):
    """Parent of the tables whose rows have an id and can be listed."""

    __abstract__ = True
    __table_args__ = _AUTOINCREMENT

    seq: Mapped[int] = mapped_column(init=False, primary_key=True, sort_order=-2)
    """Order of arrival."""
    id: Mapped[str] = mapped_column(unique=True, sort_order=-1)


class FileRow(Row):
    """A stored file; its bytes are in the data folder under its id."""

    __tablename__ = "files"

    owner: Mapped[str]
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int]
    sha256: Mapped[str]
    created_at: Mapped[int]
    expires_at: Mapped[int | None] = mapped_column(default=None)


class UploadRow(Row):
    """An upload that is put together from parts."""

    __tablename__ = "uploads"

    owner: Mapped[str]
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int]
    """The size that was announced."""
    mime_type: Mapped[str]
    status: Mapped[str]
    created_at: Mapped[int]
    expires_at: Mapped[int]
    file_expires_after: Mapped[int | None] = mapped_column(default=None)
    """Seconds that the finished file is kept; ``None`` for ever."""
    file_id: Mapped[str | None] = mapped_column(default=None)


class PartRow(Row):
    """One part of an upload."""

    __tablename__ = "parts"

    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    bytes: Mapped[int]
    created_at: Mapped[int]


class JobRow(Row):
    """A fine-tuning job, with what the supervisor needs to carry it through a crash."""

    __tablename__ = "jobs"

    owner: Mapped[str]
    created_at: Mapped[int]
    model: Mapped[str]
    """As requested."""
    base: Mapped[str]
    """The base model that is trained: the default one, a hub id or a folder."""
    model_name: Mapped[str]
    """The name that the tuned model will have."""
    method: Mapped[str]
    training_file: Mapped[str]
    validation_file: Mapped[str | None]
    suffix: Mapped[str | None]
    seed: Mapped[int]
    requested_hyperparameters: Mapped[dict[str, Any]]
    resolved_hyperparameters: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    grader: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """Scores the answers in reinforcement."""
    integrations: Mapped[list[dict[str, Any]] | None] = mapped_column(default=None)
    user_metadata: Mapped[dict[str, str] | None] = mapped_column(default=None)
    status: Mapped[str] = mapped_column(default="validating_files", index=True)
    desired_state: Mapped[str] = mapped_column(default="run")
    """``run``, ``pause`` or ``cancel``: the owner's last request."""
    pause_reason: Mapped[str | None] = mapped_column(default=None)
    """Why it should pause: ``requested`` by its owner, or ``restored`` from its folder; ``None`` if it should not."""
    validated: Mapped[bool] = mapped_column(default=False)
    """True once the files have passed validation."""
    validation_attempts: Mapped[int] = mapped_column(default=0)
    """Starts of the validation of the files; one that crashed counts ten."""
    has_trainer: Mapped[bool] = mapped_column(default=False)
    """True from before a trainer is started until it is known to be gone."""
    attempts: Mapped[int] = mapped_column(default=0)
    """Starts in a row that ended without a new step."""
    attempt_step: Mapped[int] = mapped_column(default=0)
    events_offset: Mapped[int] = mapped_column(default=0)
    """Bytes of the trainer's event file that are already in the events table."""
    started_at: Mapped[int | None] = mapped_column(default=None)
    finished_at: Mapped[int | None] = mapped_column(default=None)
    estimated_finish: Mapped[int | None] = mapped_column(default=None)
    trained_tokens: Mapped[int | None] = mapped_column(default=None)
    fine_tuned_model: Mapped[str | None] = mapped_column(default=None, unique=True)
    final_step: Mapped[int | None] = mapped_column(default=None)
    error: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    result_file: Mapped[str | None] = mapped_column(default=None)
    deleted: Mapped[bool] = mapped_column(default=False)
    """True once its model was deleted."""
    upstream: Mapped[str | None] = mapped_column(default=None)
    """The provider at which it is trained; ``None`` for this machine."""
    upstream_run: Mapped[str | None] = mapped_column(default=None)
    """The run of the gateway's registry that creates it there; set before anything is sent."""
    upstream_model: Mapped[str | None] = mapped_column(default=None)
    """The tuned model's name there."""
    has_requested_seed: Mapped[bool] = mapped_column(default=True)


class EventRow(Row):
    """One event of a job."""

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    created_at: Mapped[int]
    level: Mapped[str]
    type: Mapped[str]
    message: Mapped[str]
    data: Mapped[dict[str, Any] | None] = mapped_column(default=None)


class CheckpointRow(Row):
    """A checkpoint that can be used as a model as long as its files are kept."""

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "step"), _AUTOINCREMENT)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    created_at: Mapped[int]
    step: Mapped[int]
    model_name: Mapped[str] = mapped_column(unique=True)
    metrics: Mapped[dict[str, float]]
    removed: Mapped[bool] = mapped_column(default=False)
    upstream_model: Mapped[str | None] = mapped_column(default=None)
    """Its name at the provider at which it was trained."""


class PermissionRow(Row):
    """Permission of another project to use a checkpoint."""

    __tablename__ = "permissions"
    __table_args__ = (UniqueConstraint("checkpoint", "project_id"), _AUTOINCREMENT)

    checkpoint: Mapped[str] = mapped_column(index=True)
    project_id: Mapped[str]
    created_at: Mapped[int]


class CompletionRow(Row):
    """A chat completion whose request had ``store``."""

    __tablename__ = "completions"
    __table_args__ = (Index("completions_of_owner", "owner", "seq", "bytes"), _AUTOINCREMENT)

    owner: Mapped[str]
    model: Mapped[str]
    created_at: Mapped[int]
    bytes: Mapped[int]
    """Size of its messages and body."""
    user_metadata: Mapped[dict[str, str]]
    messages: Mapped[list[dict[str, Any]]]
    """Of the request."""
    body: Mapped[dict[str, Any]]


class ResponseRow(Row):
    """A response of ``/responses`` whose request did not have ``store=false``."""

    __tablename__ = "responses"
    __table_args__ = (Index("responses_of_owner", "owner", "bytes"), _AUTOINCREMENT)

    owner: Mapped[str]
    bytes: Mapped[int]
    """Of its items, as JSON."""
    created_at: Mapped[int]
    expires_at: Mapped[int] = mapped_column(index=True)
    previous_response_id: Mapped[str | None]
    input_items: Mapped[list[dict[str, Any]]]
    """The items of its request, without those of the responses before it."""
    body: Mapped[dict[str, Any]]
    deltas: Mapped[dict[str, Any]]
    """Sizes of the events of its stream, by output item."""


class BatchRow(Row):
    """Requests of a file that are answered in the background; a link to the file is in the data folder."""

    __tablename__ = "batches"

    owner: Mapped[str]
    created_at: Mapped[int]
    endpoint: Mapped[str]
    input_file: Mapped[str]
    expires_at: Mapped[int]
    user_metadata: Mapped[dict[str, str] | None] = mapped_column(default=None)
    output_expires_after: Mapped[int | None] = mapped_column(default=None)
    """Seconds that the files with answers are kept; ``None`` for ever."""
    status: Mapped[str] = mapped_column(default="validating", index=True)
    model: Mapped[str | None] = mapped_column(default=None)
    errors: Mapped[list[dict[str, Any]] | None] = mapped_column(default=None)
    """Why the input file cannot be used."""
    starts: Mapped[int] = mapped_column(default=0)
    """How often a server began to answer requests since the last answer that was stored."""
    in_progress_at: Mapped[int | None] = mapped_column(default=None)
    finalizing_at: Mapped[int | None] = mapped_column(default=None)
    cancelling_at: Mapped[int | None] = mapped_column(default=None)
    ended_at: Mapped[int | None] = mapped_column(default=None)
    total: Mapped[int] = mapped_column(default=0)
    completed: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    input_tokens: Mapped[int] = mapped_column(default=0)
    output_tokens: Mapped[int] = mapped_column(default=0)
    output_file: Mapped[str | None] = mapped_column(default=None)
    error_file: Mapped[str | None] = mapped_column(default=None)


class BatchAnswerRow(Base):
    """The answer to one request of a batch that has not ended."""

    __tablename__ = "batch_answers"

    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True)
    """In the input file, from 1."""
    is_error: Mapped[bool]
    content: Mapped[str]
    """Its line in the output or error file."""


class ShadowPairRow(Base):
    """An owner's chats with one model that another model answered, too."""

    __tablename__ = "shadow_pairs"
    __table_args__ = (UniqueConstraint("owner", "old", "new"), _AUTOINCREMENT)

    id: Mapped[int] = mapped_column(init=False, primary_key=True)
    owner: Mapped[str]
    old: Mapped[str]
    """The model whose answers the owner got."""
    new: Mapped[str]
    started_at: Mapped[int]
    updated_at: Mapped[int]
    share: Mapped[float]
    """Of the chats that are mirrored, now."""
    chats: Mapped[int] = mapped_column(default=0)
    """Answered chats with the old model."""
    dropped: Mapped[int] = mapped_column(default=0)
    """Chats of the share that were not mirrored because the server was busy or stopping."""
    unpaid: Mapped[int] = mapped_column(default=0)
    """Chats of the share that were not mirrored because of the limit for costs."""


class ShadowResultRow(Base):
    """One mirrored chat: how the two answers compare."""

    __tablename__ = "shadow_results"
    __table_args__ = _AUTOINCREMENT

    id: Mapped[int] = mapped_column(init=False, primary_key=True)
    pair_id: Mapped[int] = mapped_column(ForeignKey("shadow_pairs.id"), index=True)
    created_at: Mapped[int]
    status: Mapped[str]
    """``sent`` until there is an answer, then ``answered`` or ``failed``."""
    request_digest: Mapped[str]
    old_digest: Mapped[str]
    """Digest of the canonical answer."""
    old_seconds: Mapped[float]
    old_tokens: Mapped[dict[str, Any]]
    """``prompt`` and ``completion``; empty if the host did not say."""
    old_score: Mapped[float | None] = mapped_column(default=None)
    new_digest: Mapped[str | None] = mapped_column(default=None)
    new_seconds: Mapped[float | None] = mapped_column(default=None)
    new_tokens: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    new_score: Mapped[float | None] = mapped_column(default=None)
    new_cost: Mapped[float] = mapped_column(default=0.0)
    """The most that it can cost until it is known."""
    error: Mapped[str | None] = mapped_column(default=None)
    """Why the new model did not answer, as a code."""
    agrees: Mapped[bool | None] = mapped_column(default=None)
    """Whether the new model's answer agrees with the one that the owner got; no answer does not."""
    repeat_agrees: Mapped[bool | None] = mapped_column(default=None)
    """The same for the old model's second answer."""
    repeat_seconds: Mapped[float | None] = mapped_column(default=None)
    texts: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """The chat and both answers, if the server keeps them."""


class DeletionRow(Base):
    """A path whose row was deleted and whose bytes may be deleted, too."""

    __tablename__ = "deletions"

    path: Mapped[str] = mapped_column(primary_key=True)
    """Relative to the data folder."""


class IdempotencyRow(Base):
    """The response given under an Idempotency-Key."""

    __tablename__ = "idempotency_keys"

    owner: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    status: Mapped[int]
    body: Mapped[dict[str, Any]]
    created_at: Mapped[int]
