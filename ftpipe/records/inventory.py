"""Records of an inventory: the models, jobs and files that a key can see at one endpoint."""

from __future__ import annotations

from typing import Literal

from ftpipe.records.base import Record

FileState = Literal["available", "missing", "unknown"]
"""``missing``: deleted, expired, or of another project; ``unknown``: it is not known, or the job names none."""
ModelState = Literal["available", "shut down", "missing"]
"""``missing``: a job names it, and the endpoint does not list it."""
DateSource = Literal["endpoint", "endpoint, of the base", "catalogue"]


class RetrainingCost(Record):
    """What it would cost to train a model again at a host, with as many tokens."""

    provider: str
    base: str
    """The same base model if the host has it, otherwise the one that is proposed in its place."""
    cost: float
    currency: str
    price_as_of: str | None
    """Date of the price, ISO 8601; ``None`` for the user's own machine."""
    last_day: str | None = None
    """Last day on which the host accepts jobs, ISO 8601, if one is announced."""


class InventoryFile(Record):
    """A file at an endpoint."""

    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: int | None
    expires_at: int | None = None
    jobs: tuple[str, ...] = ()
    """The jobs that name it."""


class InventoryJob(Record):
    """A job at an endpoint."""

    id: str
    status: str
    base: str
    created_at: int | None
    finished_at: int | None
    model: str | None
    training_file: str
    training_file_state: FileState
    missing_files: tuple[str, ...] = ()
    """Training, validation and result files that the job names and that the endpoint does not have."""
    trained_tokens: int | None = None
    is_registered: bool = False


class InventoryModel(Record):
    """A tuned model at an endpoint, with the job that made it."""

    id: str
    provider: str
    base: str
    state: ModelState
    created_at: int | None
    checkpoints: tuple[str, ...] = ()
    """Names of its checkpoints, each of which answers like a model."""
    job: InventoryJob | None = None
    """The last job that made it; ``None`` if the key cannot see it."""
    shutdown_date: str | None = None
    """Day on which it stops answering, ISO 8601."""
    shutdown_source: DateSource | None = None
    days_left: int | None = None
    """Days until then, negative after it."""
    trained_tokens: int | None = None
    tokens_are_estimated: bool = False
    """They are not reported, and were estimated from the size of the training file."""
    retraining: tuple[RetrainingCost, ...] = ()
    """The cheapest host first."""
    is_registered: bool = False

    @property
    def training_file_state(self) -> FileState:
        """Whether the data that it was trained on are still at the endpoint."""
        return self.job.training_file_state if self.job else "unknown"


class Inventory(Record):
    """Everything that a key can see at one endpoint."""

    provider: str
    title: str
    endpoint: str
    today: str
    """The day for which it is, ISO 8601."""
    last_day_to_create: str | None
    accepts_jobs: bool
    """Whether new jobs are accepted on that day, as far as the date tells."""
    models: tuple[InventoryModel, ...]
    """Those that stop answering first come first."""
    jobs: tuple[InventoryJob, ...]
    """Newest first."""
    files: tuple[InventoryFile, ...]
    """Newest first."""
    problems: tuple[str, ...] = ()
    """What could not be read, so that something may be missing here; empty if everything was."""

    def ending_within(self, days: int) -> tuple[InventoryModel, ...]:
        """Models that answer today and are shut down within so many days."""
        available = (model for model in self.models if model.state == "available" and model.days_left is not None)
        return tuple(model for model in available if 0 <= (model.days_left or 0) <= days)
