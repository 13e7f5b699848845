"""Curves: thinned out without losing an extreme value, continued, and read once."""

from __future__ import annotations

import math

from ftpipe.registry import Registry
from ftpipe.registry.jobs import MetricEvent
from ftpipe.ui.curves import MAX_METRICS, Curve, CurveCache
from tests.ui import seeds


def curve_of(values: list[float]) -> Curve:
    curve = Curve()
    curve.add(MetricEvent(step, step, {"step": step, "train_loss": value}) for step, value in enumerate(values, 1))
    return curve


def test_curve_keeps_extremes_and_ends() -> None:
    values = [1 + math.sin(step / 50) for step in range(100_000)]
    values[50_123], values[77_777] = 99.0, -99.0
    steps, shown = curve_of(values).points("train_loss")
    assert len(steps) <= 802
    assert {99.0, -99.0, values[0], values[-1]} <= set(shown)
    assert steps == sorted(set(steps))


def test_curve_shows_every_point_of_a_part() -> None:
    steps, _ = curve_of([1.0] * 10_000).points("train_loss", start=500, end=600)
    assert steps == list(range(500, 601))


def test_curve_takes_latest_value_of_a_step_and_sorts() -> None:
    """A job that went on from a checkpoint reports steps again."""
    curve = Curve()
    for position, (step, value) in enumerate([(1, 5.0), (3, 4.0), (2, 3.0), (3, 2.0)]):
        curve.add([MetricEvent(position, step, {"step": step, "train_loss": value})])
    curve.add([MetricEvent(9, 2, {"step": 2, "valid_loss": 7.0})])
    assert curve.points("train_loss") == ([1, 2, 3], [5.0, 3.0, 2.0])
    assert curve.points("valid_loss") == ([2], [7.0])
    assert (curve.best("train_loss"), curve.last("valid_loss"), curve.position) == ((3, 2.0), 7.0, 9)


def test_curve_bounds_the_number_of_metrics() -> None:
    curve = Curve()
    curve.add([MetricEvent(0, 1, {"step": 1, **{f"m{number}_loss": 1.0 for number in range(100)}})])
    assert len(curve.columns) == MAX_METRICS


def test_curve_cache_continues_where_it_ended(registry: Registry) -> None:
    run = seeds.add_run(registry, seeds.run_of(), seeds.job_of(seeds.run_of()), steps=5)
    assert run.job is not None
    cache = CurveCache(registry)
    first = cache.read(run.job)
    assert first.last_step == 5
    registry.jobs.save_events(run.job, [seeds.metric_event(6, reward=1.0)])
    assert cache.read(run.job).last_step == 6
    assert cache.read(run.job).points("train_loss")[0] == [1, 2, 3, 4, 5, 6]
    assert (first.last_step, list(first.columns)) == (5, ["train_loss"]), "another thread may be drawing it"
