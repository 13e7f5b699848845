"""Records of a migration: the proposed bases, what was translated, the gate, and the aliases that were moved."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import Field

from ftpipe.records.base import Method, Record
from ftpipe.records.evaluation import GateResult


class HyperparameterChange(Record):
    """One hyperparameter that has another value, or another name, at the new host."""

    name: str
    before: str
    after: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.before} → {self.after} ({self.reason})"


class TrainingTask(Record):
    """What the data of a model needs from a base model."""

    method: Method
    examples: int
    longest_tokens: int = 0
    """Tokens of the longest example, as counted for OpenAI's bases."""
    tool_examples: int = 0
    """Examples with tool definitions or calls."""
    image_examples: int = 0
    reasoning_examples: int = 0
    """Examples whose answers carry their reasoning."""


class BaseProposal(Record):
    """One base model that could take the place of another host's."""

    name: str
    target: str
    parameters_b: float | None = None
    """Parameters in billions; ``None`` if they are not published."""
    price_per_million: float | None = None
    """Price of one million trained tokens in the task's method; ``None`` if it is not known."""
    currency: str = "USD"
    price_as_of: str | None = None
    reason: str
    """Why it stands where it stands in the list."""
    source: str
    """Where the facts of the ranking are from."""
    obstacle: str = ""
    """Why it cannot be trained on this data; empty if it can."""


class TrainingSource(StrEnum):
    """Where the training data of a migration is from."""

    FILE = "file"
    """``--data``."""
    BACKUP = "backup"
    REGISTRY = "registry"
    """The file from which the model was trained, which is still on this machine."""
    PROVIDER = "provider"
    DISTILLED = "distilled"
    """Recorded answers of the model."""


class AliasMoved(Record):
    """One alias that a migration has moved."""

    alias: str
    from_model: str
    """The model that it is moved back to."""


class MigrationState(StrEnum):
    """How far a migration is."""

    PLANNED = "planned"
    TRAINED = "trained"
    """The new model is registered; it was not compared yet."""
    REJECTED = "rejected"
    """A gate has failed; no alias was moved."""
    MOVED = "moved"
    """The gate was passed, and the aliases point at the new model."""
    ROLLED_BACK = "rolled back"


ComparisonKind = Literal["expected answers", "recorded answers"]


class GateComparison(Record):
    """The old and the new model on one set of prompts."""

    kind: ComparisonKind
    """Both are compared with correct answers; or the new one with what the old one answered."""
    evaluation_id: str
    items: int
    metric: str
    old_score: float
    new_score: float
    difference: float
    """New minus old."""
    low: float | None
    """Lower end of the difference's interval; ``None``, like ``high``, if there are too few items."""
    high: float | None
    confidence: float
    gate: GateResult
    cost: float | None = None
    """What its answers have cost, without those that were recorded before, by the tokens that the endpoints counted;
    ``None`` if that is not known.
    """
    note: str = ""
    """What was left out, or how the old model's figure was obtained; often empty."""


class Migration(Record):
    """One model's move to another host, as far as it is."""

    id: str
    """``migration-<12 characters>``: the same model, data, host and base have the same one."""
    created_at: int
    """UTC Unix seconds."""
    state: MigrationState = MigrationState.PLANNED
    old_model: str
    old_endpoint: str
    old_provider: str
    provider: str
    """The new host."""
    base: str
    data: Path
    data_sha256: str
    data_source: TrainingSource
    changes: tuple[HyperparameterChange, ...] = ()
    run_id: str | None = None
    new_model: str | None = None
    chat_model: str | None = None
    """Name with which the new model answered, if that is the name of a deployment."""
    has_deployment: bool = False
    """Whether a deployment was started for the comparison, and has to be stopped."""
    margin: float
    """How much worse the new model may be at most, as a share from 0 to 1."""
    comparisons: tuple[GateComparison, ...] = ()
    aliases: tuple[AliasMoved, ...] = Field(default=())

    @property
    def passed(self) -> bool:
        """Whether every gate was passed; False before there is one."""
        return bool(self.comparisons) and all(one.gate.passed for one in self.comparisons)
