"""Records of leaving a provider: which models move, what it costs, and how far each of them is."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Literal

from ftpipe.records.base import Record
from ftpipe.records.migration import GateComparison

MAX_ROUNDING_ERROR = 1e-9
"""Of a sum of costs, in units of the currency."""


class LeaveStage(StrEnum):
    """How far one model is."""

    LISTED = "listed"
    BACKED_UP = "backed up"
    RECORDED = "recorded"
    TRAINED = "trained"
    """The successor is registered; it was not compared yet."""
    REJECTED = "rejected"
    """The successor was compared, and a gate has failed; no alias was moved."""
    MOVED = "moved"
    """Every gate was passed, and the old name stands for the successor."""


class LeaveModel(Record):
    """One model that moves."""

    model: str
    base: str
    stage: LeaveStage = LeaveStage.LISTED
    problem: str = ""
    """Why it does not go on; empty if it does."""
    hint: str = ""
    """What to do about it."""
    shutdown_date: str | None = None
    """Day on which it stops answering, ISO 8601."""
    saved_files: int = 0
    missing: tuple[str, ...] = ()
    """What the provider did not give, each with the reason."""
    data: Path | None = None
    """Its training file in the backup."""
    validation: Path | None = None
    """Its validation file in the backup."""
    examples: int = 0
    recording: Path | None = None
    prompts: int = 0
    """Prompts whose answers are recorded."""
    recording_cost: float | None = None
    """Highest cost of what is not recorded yet; ``None`` if it is not known."""
    recording_reason: str = ""
    """Why answers are recorded in the way they are, or why not at all."""
    is_planned_later: bool = False
    """Whether the successor is planned when the answers are recorded: it is trained on them, or compared with them."""
    new_base: str = ""
    reason: str = ""
    """Why this base."""
    source: str = ""
    """Where the facts of that are from."""
    changes: tuple[str, ...] = ()
    """Hyperparameters that have another value at the new host."""
    training_cost: float | None = None
    """Highest cost of the job; ``None`` if it is not known."""
    comparison_cost: float | None = None
    """Highest cost of the requests that compare both models; ``None`` if it is not known."""
    migration_id: str | None = None
    new_model: str | None = None
    comparisons: tuple[GateComparison, ...] = ()
    aliases: tuple[str, ...] = ()
    """Names that stand for the successor now."""
    comparison_spent: float = 0.0
    """What its comparison has cost; its highest cost, if the endpoints counted no tokens."""
    spent: float = 0.0
    """What its recording, its job and its comparison have cost, as far as that is known."""

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.stage in (LeaveStage.MOVED, LeaveStage.REJECTED)

    @property
    def highest_cost(self) -> float | None:
        """What is planned for it may still cost; ``None`` if that is not known."""
        parts = [self.recording_cost]
        if not self.is_planned_later:
            parts += [self.training_cost, self.comparison_cost]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None


class LeaveState(Record):
    """A provider that is left, as far as that is; saved after every step."""

    version: Literal[1] = 1
    created_at: int
    """UTC Unix seconds."""
    updated_at: int = 0
    provider: str
    title: str
    endpoint: str
    last_day_to_create: str | None = None
    """Last day on which the provider accepts jobs, ISO 8601."""
    to: str
    """The new host."""
    base: str | None = None
    """The new base model, if the user has named one for all."""
    backup: Path
    held_out: Path | None = None
    log: Path | None = None
    samples: int = 0
    """Answers per prompt, besides the greedy one."""
    margin: float = 5.0
    """How many points of 100 worse a successor may be."""
    max_cost: float | None = None
    currency: str = "USD"
    models: tuple[LeaveModel, ...] = ()
    staying: tuple[str, ...] = ()
    """Models that the key can see and that were not chosen."""

    def model(self, name: str) -> LeaveModel:
        """One of the models."""
        return next(one for one in self.models if one.model == name)

    def with_model(self, changed: LeaveModel) -> LeaveState:
        """The same with one changed model."""
        models = tuple(changed if one.model == changed.model else one for one in self.models)
        return self.model_copy(update={"models": models})

    def with_files_in(self, folder: Path) -> LeaveState:
        """The same with the files of a temporary backup in this folder named as the backup will have them."""

        def moved(path: Path | None) -> Path | None:
            return self.backup / path.relative_to(folder) if path and path.is_relative_to(folder) else path

        models = (
            one.model_copy(update={"data": moved(one.data), "validation": moved(one.validation)}) for one in self.models
        )
        return self.model_copy(update={"models": tuple(models)})

    @property
    def open_models(self) -> list[LeaveModel]:
        """Models that go on."""
        return [one for one in self.models if not one.is_done and not one.problem]

    @property
    def highest_cost(self) -> float | None:
        """What is planned costs at most; ``None`` if a price is not known."""
        costs = [one.highest_cost for one in self.open_models]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    @property
    def spent(self) -> float:
        """What was paid, as far as that is known."""
        return sum(one.spent for one in self.models)

    def limit_for(self, *, planned: float, spent: float) -> float | None:
        """What one step of a model may cost, with what it has cost already; ``None`` without a limit.

        Args:
            planned: The highest cost of what is left of this step, which is part of ``highest_cost``.
            spent: What the step has cost already, which is part of ``spent``.
        """
        if self.max_cost is None:
            return None
        elsewhere = (self.spent - spent) + ((self.highest_cost or 0.0) - planned)
        return max(0.0, self.max_cost - elsewhere + MAX_ROUNDING_ERROR)
