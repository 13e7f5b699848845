"""Clocks that jump: nothing is counted by them that must not be, and the latest run is the latest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ftpipe.pipeline.pipeline import Pipeline
from ftpipe.records import RunState
from tests.fakes.records import report_of, spec_of
from tests.fakes.scripted_server import LOST
from tests.faults.environment import FaultEnvironment

HOUR = 3600.0


def at(environment: FaultEnvironment, clock: Callable[[], float], **profile: Any) -> Pipeline:
    """A pipeline whose clock says something else."""
    quiet = environment.pipeline(**profile)
    return Pipeline(
        provider=quiet.provider,
        registry=environment.registry,
        observer=environment.recorded,
        sleep=environment.sleep,
        clock=clock,
    )


@pytest.mark.parametrize("jump", [-48 * HOUR, -HOUR, HOUR, 48 * HOUR])
def test_clock_jump_does_not_change_search_time(environment: FaultEnvironment, jump: float) -> None:
    """Row 24: the list is behind, the clock leaps: the search lasts as long as the list may be behind, no longer."""
    now = [1_795_500_000.0]

    def leap(route: str) -> None:
        if route == "POST /fine_tuning/jobs":
            now[0] += jump

    environment.endpoint.after = leap
    environment.endpoint.list_lag = 0.15
    environment.endpoint.script("POST /fine_tuning/jobs", LOST)
    pipeline = at(environment, lambda: now[0], metadata_filter=False)
    run = pipeline.start(pipeline.plan_for(spec_of(environment.dataset), report_of(environment.dataset)))
    assert pipeline.advance(run, timeout=120).state == RunState.REGISTERED
    assert environment.endpoint.calls["POST /fine_tuning/jobs"] == 1
    assert max(environment.slept) < 5


def test_clock_set_back_keeps_latest_run(environment: FaultEnvironment) -> None:
    """Row 24: an hour back, as at the end of summer time on a badly set machine: ``resume`` takes the right run."""
    before, after = at(environment, lambda: 1_795_500_000.0), at(environment, lambda: 1_795_500_000.0 - HOUR)
    first = before.start(before.plan_for(spec_of(environment.dataset), report_of(environment.dataset)))
    spec = spec_of(environment.dataset).model_copy(update={"suffix": "other"})
    second = after.start(after.plan_for(spec, report_of(environment.dataset)))
    latest = environment.registry.runs.latest()
    assert latest is not None
    assert (latest.id, [run.id for run in environment.registry.runs.recent()]) == (second.id, [second.id, first.id])


@pytest.mark.parametrize("years", [-30, -5, 1, 40])
def test_clock_wrong_year_trains_once(environment: FaultEnvironment, years: int) -> None:
    """Row 24: an empty battery says 1996, a bad one 2066: the job is made once, the model is registered."""
    environment.endpoint.script("POST /fine_tuning/jobs", LOST)
    pipeline = at(environment, lambda: 1_795_500_000.0 + years * 365.25 * 24 * HOUR)
    run = pipeline.start(pipeline.plan_for(spec_of(environment.dataset), report_of(environment.dataset)))
    assert pipeline.advance(run, timeout=120).state == RunState.REGISTERED
    assert len(environment.endpoint.jobs) == 1
