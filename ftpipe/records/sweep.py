"""The records of a hyperparameter sweep: its trials, ranked, and the best model."""

from __future__ import annotations

from typing import Literal

from ftpipe.records.base import Record
from ftpipe.records.run import RunState

HyperparameterValue = int | float | str
GridPoint = dict[str, HyperparameterValue]
"""Hyperparameter → its value in one trial."""


class Trial(Record):
    """One point of the grid, and the result of training there."""

    name: str
    """Its hyperparameters, for example ``epochs=3 learning_rate_multiplier=0.5``."""
    point: GridPoint
    run_id: str
    state: RunState
    model: str | None = None
    valid_loss: float | None = None
    """The last validation loss, over the whole file if the endpoint reports that."""
    train_loss: float | None = None
    score: float | None = None
    """On the held-out items; ``None`` if the sweep was not evaluated."""
    cost: float | None = None
    """The estimate, or the billed amount once it is known."""
    stopped_after: int | None = None
    """Epochs after which a search did not train it further; ``None`` for a trial that was trained to its end."""
    error: str = ""


class Sweep(Record):
    """All trials, best first."""

    trials: tuple[Trial, ...]
    compared_by: Literal["held-out score", "validation loss"]
    best_model: str
    alias: str
    """Alias that points to the best model."""
    currency: str = "USD"
