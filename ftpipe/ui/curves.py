"""Curves of training metrics: read once and continued, and thinned out for a chart without losing an extreme value."""

from __future__ import annotations

import math
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from ftpipe.records import Job
from ftpipe.registry import Registry
from ftpipe.registry.jobs import MetricEvent

MAX_METRICS = 24
"""Different metrics of one job."""
MAX_CURVES = 32
"""Curves in memory; one of 100,000 steps with three metrics has about 3 MB."""
MAX_POINTS = 800
"""Points of a curve in a chart: two for each of its pixel columns."""
NOT_CHARTED = frozenset({"step", "total_steps", "epoch"})

Points = tuple[list[int], list[float]]
"""Steps and values."""


@dataclass
class Curve:
    """The metrics of a job by step, in columns; a value that was not reported is NaN."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    columns: dict[str, array[float]] = field(default_factory=dict)
    total_steps: int | None = None
    position: int = -1
    """Position of the last event that was read."""

    def add(self, events: Iterable[MetricEvent]) -> None:
        """Continue with new events; of several values for a step the latest counts."""
        for event in events:
            self.position = max(self.position, event.position)
            row = self._row(event.step)
            for name, value in event.values.items():
                if name == "total_steps":
                    self.total_steps = int(value)
                elif name not in NOT_CHARTED and (column := self._column(name)) is not None:
                    column[row] = value

    def copy(self) -> Curve:
        """A copy that can be continued."""
        columns = {name: column[:] for name, column in self.columns.items()}
        return Curve(self.steps[:], columns, self.total_steps, self.position)

    def _row(self, step: int) -> int:
        row = len(self.steps)
        if row and step <= self.steps[-1]:
            row = bisect_left(self.steps, step)
            if self.steps[row] == step:
                return row
        self.steps.insert(row, step)
        for column in self.columns.values():
            column.insert(row, math.nan)
        return row

    def _column(self, name: str) -> array[float] | None:
        if name not in self.columns:
            if len(self.columns) >= MAX_METRICS:
                return None
            self.columns[name] = array("d", [math.nan]) * len(self.steps)
        return self.columns[name]

    def points(self, name: str, *, start: int | None = None, end: int | None = None, limit: int = MAX_POINTS) -> Points:
        """Steps and values of a metric; if there are too many, the lowest and highest of each part of the steps.

        Args:
            name: The metric.
            start: First step; ``None`` for the first of all.
            end: Last step; ``None`` for the last of all.
            limit: Maximum number of points.
        """
        column = self.columns.get(name)
        if column is None:
            return [], []
        low = 0 if start is None else bisect_left(self.steps, start)
        high = len(self.steps) if end is None else bisect_right(self.steps, end)
        rows = [row for row in range(low, high) if not math.isnan(column[row])]
        if len(rows) > limit:
            rows = _extremes(column, rows, max(1, limit // 2))
        return [self.steps[row] for row in rows], [column[row] for row in rows]

    def last(self, name: str) -> float | None:
        """The last value of a metric."""
        return next((value for value in reversed(self.columns.get(name, ())) if not math.isnan(value)), None)

    def best(self, name: str, *, highest: bool = False) -> tuple[int, float] | None:
        """Step and value of the first lowest value, as of a loss, or of the first highest one, as of a reward."""
        column = self.columns.get(name, ())
        rows = (row for row, value in enumerate(column) if not math.isnan(value))
        best = (max if highest else min)(rows, key=column.__getitem__, default=None)
        return None if best is None else (self.steps[best], column[best])

    @property
    def last_step(self) -> int | None:
        """The last step that was reported."""
        return self.steps[-1] if self.steps else None


def _extremes(column: Sequence[float], rows: Sequence[int], parts: int) -> list[int]:
    """The rows of the lowest and the highest value in each of so many equal parts, and the first and last row."""
    chosen = {rows[0], rows[-1]}
    for part in range(parts):
        block = rows[len(rows) * part // parts : len(rows) * (part + 1) // parts]
        chosen |= {min(block, key=column.__getitem__), max(block, key=column.__getitem__)}
    return sorted(chosen)


class CurveCache:
    """The curves that were read last; each read continues where the one before ended.

    A curve that was returned does not change any more: another thread may draw it while new events are read.

    Args:
        registry: Where the events are.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._curves: OrderedDict[tuple[str, str], Curve] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, job: Job) -> Curve:
        """The curve of a job with all its saved events."""
        key = (job.endpoint, job.id)
        with self._lock:
            curve = self._curves.pop(key, None) or Curve()
            events = self._registry.jobs.metric_events(job, after=curve.position)
            if (first := next(events, None)) is not None:
                curve = curve.copy()
                curve.add(chain([first], events))
            self._curves[key] = curve
            if len(self._curves) > MAX_CURVES:
                self._curves.popitem(last=False)
            return curve
