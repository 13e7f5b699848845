"""Runs and sweeps as text: what fits on a terminal, and nothing twice."""

from __future__ import annotations

import pytest

from ftpipe.records import RunState
from ftpipe.records.sweep import Sweep, Trial
from ftpipe.reports.runs import sweep_lines


def trial(name: str, *, loss: float | None, cost: float | None = 0.0, error: str = "") -> Trial:
    """A trial that has a model if it has a loss."""
    return Trial(
        name=name,
        point={"epochs": 3},
        run_id=f"run-{name}",
        state=RunState.FAILED if error else RunState.REGISTERED,
        model=None if loss is None else f"ft:{name}",
        valid_loss=loss,
        train_loss=loss,
        score=None,
        cost=cost,
        error=error,
    )


def sweep(*trials: Trial) -> Sweep:
    """A sweep whose first trial is the best one."""
    return Sweep(
        trials=trials, compared_by="validation loss", best_model=trials[0].model or "", alias="a@best", currency="USD"
    )


LONG_NAME = "epochs=4 learning_rate_multiplier=2"


@pytest.mark.parametrize("width", [80, 120])
def test_sweep_table_fits_the_terminal(width: int) -> None:
    """Bars are as long as there is space for them."""
    lines = list(sweep_lines(sweep(trial(LONG_NAME, loss=0.5), trial(f"{LONG_NAME} x", loss=1.0)), width=width))
    assert max(map(len, lines)) <= width
    assert [line.count("█") for line in lines[1:3]] == ([7, 14] if width == 80 else [12, 24])


def test_sweep_table_leaves_out_bars_without_space() -> None:
    lines = list(sweep_lines(sweep(trial("x" * 60, loss=0.5), trial("y", loss=1.0)), width=80))
    assert not any("█" in line for line in lines)


def test_sweep_table_says_state_of_failed_trial() -> None:
    """Its reason was said when it failed."""
    text = "\n".join(sweep_lines(sweep(trial("a", loss=0.5), trial("b", loss=None, error="line 3 has no role"))))
    assert "failed" in text
    assert "line 3" not in text


@pytest.mark.parametrize(("cost", "shown"), [(0.0, ""), (1.5, "1.50 USD"), (None, "unknown")])
def test_sweep_table_has_costs_unless_all_is_free(cost: float | None, shown: str) -> None:
    text = "\n".join(sweep_lines(sweep(trial("a", loss=0.5, cost=cost))))
    assert ("cost" in text) == bool(shown)
    assert shown in text
