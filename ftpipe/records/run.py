"""Records of the registry: runs and their models."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ftpipe.records.base import Method, Record
from ftpipe.records.dataset import CostEstimate, Dataset
from ftpipe.records.job import SERVE_AS_PATTERN, Checkpoint, Hyperparameters, Job, TrainingMetrics, UploadedFile


class Predecessor(Record):
    """A model, often at another host, whose place another one takes."""

    model: str
    endpoint: str
    provider: str


class Model(Record):
    """A fine-tuned model in the registry, with its lineage."""

    id: str
    """The model's name at its endpoint."""
    base: str
    provider: str
    endpoint: str
    method: Method = Method.SUPERVISED
    job_id: str
    """The job, its predecessor; empty if the key cannot see it, as of a model that was made in another project."""
    file_id: str
    dataset_sha256: str
    """Empty for a model that was not trained by ftpipe and whose data are not known."""
    validation_sha256: str | None = None
    run_id: str | None = None
    requested: Hyperparameters | None = None
    resolved: Hyperparameters | None = None
    seed: int | None = None
    trained_tokens: int | None = None
    currency: str = "USD"
    estimated_cost: float | None = None
    actual_cost: float | None = None
    """As the endpoint says, else ``trained_tokens`` times the price of the estimate; ``None`` if neither is known."""
    metrics: TrainingMetrics | None = None
    """The last reported value of each metric of the job."""
    checkpoints: tuple[Checkpoint, ...] = ()
    base_shutdown_date: str | None = None
    """Day on which the base model, and with it this model, is shut down; ISO 8601."""
    created_at: int
    predecessor: Predecessor | None = None
    """The model whose place this one takes, if it was trained for that."""
    aliases: tuple[str, ...] = ()
    """For example ``support-bot@production``."""


class RunSpec(Record):
    """What a run does; the same spec and data stand for the same job."""

    provider: str
    data: Path
    validation: Path | None = None
    model: str
    requested_model: str | None = None
    """The hosted model that was requested, if ``model`` is trained on the user's own machine in its place."""
    serve_as: Annotated[str, Field(pattern=SERVE_AS_PATTERN)] | None = None
    """Base model in the tuned model's name, instead of the real one; only ftpipe's own server takes it."""
    method: Method | None = None
    """``None`` for the method of the dataset's format."""
    hyperparameters: Hyperparameters = Hyperparameters()
    suffix: str | None = None
    seed: int | None = None
    integrations: tuple[dict[str, Any], ...] = ()
    grader: dict[str, Any] | None = None
    """Scores the answers in reinforcement, in the provider's form."""
    metadata: dict[str, str] = Field(default_factory=dict)
    predecessor: Predecessor | None = None
    """The model whose place the new one takes."""


class RunState(StrEnum):
    """The state of a run."""

    PREPARED = "prepared"
    UPLOADED = "uploaded"
    CREATED = "created"
    """The job exists; it can still be running."""
    REGISTERED = "registered"
    """The model is in the registry; the run has succeeded."""
    DELETED = "deleted"
    """The user has deleted its job or its model; the same data and parameters are trained again."""
    FAILED = "failed"
    """The job ended without a model, or the provider rejected it."""


class Run(Record):
    """One run of the pipeline."""

    id: str
    """``run-<12 characters>``."""
    spec: RunSpec
    endpoint: str
    state: RunState
    created_at: int
    dataset_sha256: str
    """Empty for a job that was not created by ftpipe and whose file is not known."""
    validation_sha256: str | None = None
    dataset: Dataset | None = None
    """``None`` for a job that was not created by ftpipe, unless it was restored from a backup."""
    validation: Dataset | None = None
    cost: CostEstimate | None = None
    file: UploadedFile | None = None
    validation_file: UploadedFile | None = None
    job: Job | None = None
    model: Model | None = None
    error: str = ""
    """Why the run failed, in one line."""
