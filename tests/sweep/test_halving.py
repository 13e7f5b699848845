"""Which trials a search makes, how far each round goes, and what its journal says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpipe.errors import LocalStateError
from ftpipe.records.sweep import GridPoint
from ftpipe.sweep.grid import parse_grid
from ftpipe.sweep.halving import (
    Outcome,
    SearchState,
    TimeBudget,
    choose_points,
    default_axes,
    plan_rounds,
    planned_epochs,
    read_state,
    survivors,
    write_state,
)
from tests.fakes.clock import Clock

AXES = ("epochs", "learning_rate_multiplier", "lora_rank")


def state_of(outcomes: dict[str, Outcome], points: int = 4, epochs: int = 4) -> SearchState:
    """A journal whose first round has these outcomes."""
    grid: tuple[GridPoint, ...] = tuple({"epochs": epochs, "lora_rank": rank + 1} for rank in range(points))
    return SearchState(key="k", points=grid, rounds=plan_rounds(points, epochs), outcomes=(outcomes,))


@pytest.mark.parametrize(
    ("trials", "epochs", "expected"),
    [
        (8, 6, [(8, 2), (4, 3), (2, 6)]),
        (8, 3, [(8, 1), (4, 2), (2, 3)]),
        (16, 50, [(16, 6), (8, 12), (4, 25), (2, 50)]),
        (4, 1, [(4, 1)]),
        (2, 5, [(2, 5)]),
        (3, 4, [(3, 4)]),
    ],
)
def test_rounds_halve_the_trials_and_double_the_epochs(
    trials: int, epochs: int, expected: list[tuple[int, int]]
) -> None:
    assert [(one.trials, one.epochs) for one in plan_rounds(trials, epochs)] == expected


@given(st.integers(2, 64), st.integers(1, 50))
def test_rounds_always_end_with_all_epochs_of_two_trials_or_more(trials: int, epochs: int) -> None:
    rounds = plan_rounds(trials, epochs)
    assert rounds[-1].epochs == epochs
    assert rounds[-1].trials >= 2
    assert [one.epochs for one in rounds] == sorted({one.epochs for one in rounds})
    assert rounds[0].trials == trials or len(rounds) < 2


def test_default_axes_leave_out_what_is_given_or_not_taken() -> None:
    assert default_axes(AXES, epochs=3, given=()) == [
        "learning_rate_multiplier=1,0.5,2", "lora_rank=16,8,32", "epochs=3,6",
    ]  # fmt: skip
    assert default_axes(AXES[:2], epochs=50, given={"learning_rate_multiplier"}) == []


def test_chosen_points_begin_with_the_default_and_are_the_same_again() -> None:
    points = parse_grid(default_axes(AXES, epochs=3, given=()))
    chosen = choose_points(points, 8, seed=7)
    assert chosen == choose_points(points, 8, seed=7)
    assert chosen[0] == {"learning_rate_multiplier": 1.0, "lora_rank": 16, "epochs": 3}
    assert len({tuple(point.items()) for point in chosen}) == 8
    assert chosen != choose_points(points, 8, seed=8)


def test_planned_epochs_are_those_of_the_longest_trials() -> None:
    """Continued jobs train only what is new in a round; others train everything again."""
    rounds = plan_rounds(4, 4)
    assert [trained for _, trained in planned_epochs([4, 1, 4, 2], rounds, continues=True)] == [[2, 2, 2, 1], [2, 2]]
    assert [trained for _, trained in planned_epochs([4, 1, 4, 2], rounds, continues=False)] == [[2, 2, 2, 1], [4, 4]]


def test_survivors_have_the_lowest_finite_losses() -> None:
    outcomes = {
        "a": Outcome(run_id="1", loss=0.5),
        "b": Outcome(run_id="2", loss=None),
        "c": Outcome(run_id="3", loss=0.1),
        "d": Outcome(),
    }
    assert survivors(outcomes, 3) == ["c", "a"]
    assert state_of({"a": Outcome(run_id="1")}).next_round() is None


def test_journal_is_read_as_written(tmp_path: Path) -> None:
    state = state_of({"lora_rank=1": Outcome(run_id="run-1", loss=0.25, epochs=2)})
    path = tmp_path / "searches" / "one.json"
    assert read_state(path, "k") is None
    write_state(path, state)
    assert read_state(path, "k") == state
    with pytest.raises(LocalStateError, match="another search"):
        read_state(path, "other")
    path.write_text("{", encoding="utf-8")
    with pytest.raises(LocalStateError, match="cannot be read") as caught:
        read_state(path, "k")
    assert str(path) in caught.value.hint


def test_time_budget_uses_the_measured_time_of_an_epoch() -> None:
    """The estimate counts only until something was trained."""
    clock = Clock()
    budget = TimeBudget(100, 60, clock)
    fresh = state_of({})
    assert budget.allows(fresh, 1)
    assert not budget.allows(fresh, 2)
    measured = state_of({"a": Outcome(run_id="1", loss=1, epochs=4)}).model_copy(update={"spent_seconds": 40})
    assert budget.allows(measured, 6)
    assert not budget.allows(measured, 7)
    assert TimeBudget(None, None, clock).allows(measured, 1000)
    clock.sleep(5)
    assert (budget.elapsed(), budget.elapsed()) == (5, 0)
