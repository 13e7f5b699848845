"""Coordinates of the charts in the HTML report; only numbers, the template writes the markup."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ftpipe.records import TrainingMetrics
from ftpipe.records.evaluation import Evaluation

WIDTH, HEIGHT = 640.0, 240.0
LEFT, BOTTOM, TOP = 56.0, 28.0, 12.0


@dataclass(frozen=True)
class Bar:
    """An interval on an axis from 0 to 100."""

    low: float
    value: float
    high: float


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    name: str
    kind: str
    """``train`` or ``valid``: solid or dashed."""
    parts: tuple[str, ...]
    """Point lists of the segments between gaps."""
    last: float


@dataclass(frozen=True)
class Chart:
    """Loss over steps."""

    curves: tuple[Curve, ...]
    low: float
    high: float
    first: int
    final: int


def score_bar(low: float, value: float, high: float) -> Bar:
    """A score and its interval; the axis is 0 to 1."""
    return Bar(low * 100, value * 100, high * 100)


def difference_scale(evaluation: Evaluation) -> float:
    """The largest absolute end of any interval, so that all differences share one scale around zero."""
    ends = [
        abs(end) for one in evaluation.comparisons for end in (one.low, one.high, one.difference) if end is not None
    ]
    return max([0.05, *(end for end in ends if math.isfinite(end))])


def difference_bar(low: float | None, value: float, high: float | None, reach: float) -> Bar:
    """A difference and its interval; zero is at 50. Without an interval the bar is as long as the axis."""
    ends = [-reach if low is None else low, value, reach if high is None else high]
    return Bar(*(50 + 50 * max(-1.0, min(1.0, end / reach)) for end in ends))


def loss_chart(metrics: Sequence[TrainingMetrics]) -> Chart | None:
    """Training and validation loss over steps; ``None`` if there are fewer than two points."""
    series: Mapping[str, list[tuple[int, float | None]]] = {
        "train": [(one.step, one.train_loss) for one in metrics if one.train_loss is not None],
        "valid": [(one.step, _valid(one)) for one in metrics if _valid(one) is not None],
    }
    points = [(step, value) for line in series.values() for step, value in line if _is_drawable(value)]
    if len(points) < 2:
        return None
    steps, values = [step for step, _ in points], [float(value or 0) for _, value in points]
    low, high = min(values), max(values)
    high = high if high > low else low + 1
    first, final = min(steps), max(max(steps), min(steps) + 1)
    curves = []
    for kind, line in series.items():
        parts = _parts(line, (first, final), (low, high))
        if parts:
            drawn = [float(value) for _, value in line if value is not None and math.isfinite(value)]
            curves.append(Curve({"train": "training", "valid": "validation"}[kind], kind, parts, drawn[-1]))
    return Chart(tuple(curves), low, high, first, final)


def _valid(metric: TrainingMetrics) -> float | None:
    return metric.full_valid_loss if metric.full_valid_loss is not None else metric.valid_loss


def _is_drawable(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _parts(
    line: Sequence[tuple[int, float | None]], steps: tuple[int, int], values: tuple[float, float]
) -> tuple[str, ...]:
    """The points of a line, split at missing values."""
    parts: list[list[str]] = [[]]
    for step, value in sorted(line, key=lambda point: point[0]):
        if value is None or not math.isfinite(value):
            parts.append([])
            continue
        x = LEFT + (WIDTH - LEFT - 8) * (step - steps[0]) / (steps[1] - steps[0])
        y = TOP + (HEIGHT - TOP - BOTTOM) * (values[1] - value) / (values[1] - values[0])
        parts[-1].append(f"{x:.1f},{y:.1f}")
    return tuple(" ".join(part) for part in parts if part)
