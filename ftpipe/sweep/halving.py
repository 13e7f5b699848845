"""Successive halving: which trials a search makes, how far each round trains them, and what its journal holds."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from ftpipe.atomic_files import write_bytes
from ftpipe.errors import LocalStateError
from ftpipe.records import Record
from ftpipe.records.sweep import GridPoint
from ftpipe.sweep.grid import trial_name

TRIAL_COUNTS = (32, 16, 8, 4, 2)
"""Powers of two, so that every round is exactly half of the last one; the largest that the budget allows is taken."""
DEFAULT_TRIALS = 8
"""Trials of a search without a budget."""
RATE_FACTORS, RANKS, EPOCH_FACTORS = (1.0, 0.5, 2.0), (16, 8, 32), (1, 2)
"""Values of the axes that are searched unless the user names others; the first of each is the default."""
MAX_EPOCHS = 50
"""The most epochs that the API takes."""


class Round(Record):
    """One round of a search."""

    trials: int
    """How many are trained in it."""
    epochs: int
    """Up to which epoch; trials with fewer epochs end before that."""


class Outcome(Record):
    """What a round has found out about a trial."""

    run_id: str | None = None
    """``None`` if it was not started, because the time was up."""
    loss: float | None = None
    """Validation loss at the end of the round; ``None`` for a trial without one."""
    epochs: int = 0
    """Epochs that it was trained in this round; 0 if it failed."""


class SearchState(Record):
    """The journal of a search: what was decided, and what each round has found out."""

    key: str
    """The same for the same data, parameters and budget at the same endpoint."""
    points: tuple[GridPoint, ...]
    rounds: tuple[Round, ...]
    spent_seconds: float = 0.0
    outcomes: tuple[dict[str, Outcome], ...] = Field(default=({},))
    """For each round that has begun: trial → outcome."""

    @property
    def trained_epochs(self) -> int:
        """Epochs of all trials."""
        return sum(outcome.epochs for outcomes in self.outcomes for outcome in outcomes.values())

    @property
    def round_index(self) -> int:
        """The round that is under way, or was the last one."""
        return len(self.outcomes) - 1

    @property
    def points_by_name(self) -> dict[str, GridPoint]:
        """Trial → its hyperparameters."""
        return {trial_name(point): point for point in self.points}

    def names(self) -> list[str]:
        """The trials of the round that is under way, the best first."""
        if self.round_index == 0:
            return list(self.points_by_name)
        return survivors(self.outcomes[-2], self.rounds[self.round_index].trials)

    def not_started(self) -> list[str]:
        """Trials that a round did not start, because the time was up."""
        return [name for outcomes in self.outcomes for name, one in outcomes.items() if one.run_id is None]

    def with_outcome(self, name: str, outcome: Outcome) -> SearchState:
        """The journal with the outcome of a trial in the round that is under way."""
        *earlier, last = self.outcomes
        return self.model_copy(update={"outcomes": (*earlier, {**last, name: outcome})})

    def without_outcomes(self, names: Collection[str]) -> SearchState:
        """The journal in which these trials of the round that is under way are still to be trained."""
        *earlier, last = self.outcomes
        remaining = {name: outcome for name, outcome in last.items() if name not in names}
        return self.model_copy(update={"outcomes": (*earlier, remaining)})

    def next_round(self) -> SearchState | None:
        """The journal with the next round begun; ``None`` if there is none, or no trial to train in it."""
        index = self.round_index + 1
        if index == len(self.rounds) or not survivors(self.outcomes[-1], 1):
            return None
        return self.model_copy(update={"outcomes": (*self.outcomes, {})})


def default_axes(names: Sequence[str], *, epochs: int, given: Collection[str]) -> list[str]:
    """Axes of a grid in the form ``KEY=V1,V2``, for hyperparameters that the user has not set.

    Args:
        names: Axes that the endpoint takes.
        epochs: Epochs that would be trained without a search.
        given: Axes that have a value already.
    """
    values: dict[str, Sequence[float]] = {
        "learning_rate_multiplier": RATE_FACTORS,
        "lora_rank": RANKS,
        "epochs": sorted({min(MAX_EPOCHS, factor * epochs) for factor in EPOCH_FACTORS}),
    }
    return [
        f"{name}={','.join(f'{value:g}' for value in axis)}"
        for name, axis in values.items()
        if name in names and name not in given and len(axis) > 1
    ]


def choose_points(points: Sequence[GridPoint], count: int, *, seed: int) -> tuple[GridPoint, ...]:
    """The first point of a grid, then others at random; the same seed chooses the same."""
    first, *others = points
    random.Random(seed).shuffle(others)  # noqa: S311  # reproducible, not secret
    return (first, *others[: count - 1])


def plan_rounds(trials: int, epochs: int) -> tuple[Round, ...]:
    """Rounds in which the better half goes on: the epochs double from round to round, up to ``epochs`` in the last.

    Source: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification", https://arxiv.org/abs/1502.07943,
    2026-11-29.
    """
    count = max(1, math.floor(math.log2(max(2, trials))))
    rounds: list[Round] = []
    for index in range(count):
        target = max(1, round(epochs / 2 ** (count - 1 - index)))
        if not rounds or target > rounds[-1].epochs:
            rounds.append(Round(trials=max(2, trials >> index), epochs=target))
    return tuple(rounds)


def survivors(outcomes: Mapping[str, Outcome], count: int) -> list[str]:
    """The trials with the lowest losses, the best first; those without a loss are never among them."""
    ranked = sorted((loss, name) for name, outcome in outcomes.items() if (loss := finite(outcome.loss)) is not None)
    return [name for _, name in ranked[:count]]


def finite(loss: float | None) -> float | None:
    """The loss; ``None`` if it is not a finite number."""
    return loss if loss is not None and math.isfinite(loss) else None


def planned_epochs(
    epochs_of: Sequence[int], rounds: Sequence[Round], *, continues: bool
) -> Iterator[tuple[Round, list[int]]]:
    """For each round, the epochs of its trials if the longest ones survive: never more than that is trained.

    Args:
        epochs_of: Epochs of each trial.
        rounds: The rounds.
        continues: Whether a round continues where the last one stopped; otherwise it starts again.
    """
    before = 0
    for current in rounds:
        trained = [min(epochs, current.epochs) - min(epochs, before) * continues for epochs in epochs_of]
        yield current, sorted(trained, reverse=True)[: current.trials]
        before = current.epochs


def read_state(path: Path, key: str) -> SearchState | None:
    """The journal of a search; ``None`` if it has none yet.

    Raises:
        LocalStateError: It cannot be read.
    """
    hint = f"remove {path} to search again; models and jobs that exist are used again"
    try:
        state = SearchState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as exc:
        raise LocalStateError(f"the journal {path} of this search cannot be read", hint) from exc
    if state.key != key:
        raise LocalStateError(f"the journal {path} belongs to another search", hint)
    return state


def write_state(path: Path, state: SearchState) -> None:
    """Replace the journal, and return when it is on the disk.

    Raises:
        LocalStateError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, state.model_dump_json().encode())
    except OSError as exc:
        raise LocalStateError(
            f"cannot write {path}: {exc.strerror or exc}", "check the folder's permissions and the free disk space"
        ) from exc


class TimeBudget:
    """Counts the time of a search, and says whether it suffices for more.

    Args:
        seconds: How long the search may take; ``None`` for no limit.
        seconds_per_epoch: An estimate for one epoch of one trial; ``None`` if there is none.
        clock: Monotonic seconds.
    """

    def __init__(self, seconds: float | None, seconds_per_epoch: float | None, clock: Callable[[], float]) -> None:
        self._seconds, self._estimate, self._clock = seconds, seconds_per_epoch, clock
        self._read_at = clock()

    def elapsed(self) -> float:
        """Seconds since the last call."""
        before, self._read_at = self._read_at, self._clock()
        return self._read_at - before

    def allows(self, state: SearchState, epochs: int) -> bool:
        """Whether so many epochs can be trained in what is left, by the epochs that were trained so far."""
        if self._seconds is None:
            return True
        trained = state.trained_epochs
        each = state.spent_seconds / trained if trained else self._estimate or 0.0
        return state.spent_seconds + each * epochs <= self._seconds
