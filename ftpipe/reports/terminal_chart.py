"""Line charts for terminals, drawn with braille dots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ftpipe.formatting import Styler, format_decimal, unstyled

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_LABEL = 8
_MAX_VALUE = 9e99
"""Larger values are drawn at this height, so that no difference of two values overflows."""


@dataclass(frozen=True)
class Series:
    """One curve: points of (step, value); values that are not finite are gaps."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str = "code"
    marker: str = ""
    """Drawn at each point; empty for a line of braille dots. Markers distinguish curves without color."""

    def finite(self) -> list[tuple[float, float]]:
        """The points that can be drawn."""
        finite = [(step, value) for step, value in self.points if math.isfinite(step) and math.isfinite(value)]
        return [(step, max(-_MAX_VALUE, min(_MAX_VALUE, value))) for step, value in finite if abs(step) < _MAX_VALUE]


def plot(series: Sequence[Series], *, width: int = 60, height: int = 8, style: Styler = unstyled) -> list[str]:
    """Curves over steps, with a scale on the left and a legend below; empty if there is no point to draw.

    Args:
        series: Later curves are drawn over earlier ones.
        width: Characters per line, at least 20.
        height: Lines of the drawing, without scale and legend.
        style: Colors the curves.
    """
    points = [point for one in series for point in one.finite()]
    if not points:
        return []
    columns = max(20, width) - _LABEL - 2
    steps = [step for step, _ in points]
    low, high = _range([value for _, value in points])
    left, right = min(steps), max(steps)
    cells = [[(" ", "")] * columns for _ in range(height)]
    for one in series:
        dots = [
            (_scale(step, left, right, columns * 2), _scale(high - min(value, high), 0, high - low, height * 4))
            for step, value in one.finite()
        ]
        if one.marker:
            for x, y in dots:
                cells[y // 4][x // 2] = (one.marker, one.style)
        else:
            _draw(cells, _columns(dots), one.style)
    scale = {height - 1: _label(low), 0: _label(high)}
    lines = [f"{scale.get(row, ''):>{_LABEL}} ┤{_styled(line, style)}" for row, line in enumerate(cells)]
    first, last = f"step {left:g}", f"{right:g}"
    lines.append(f"{'':>{_LABEL}} └{first}{last.rjust(max(0, columns - len(first)))}")
    legend = [
        f"{style(one.style, one.marker or '⠒')} {one.name} {format_decimal(one.finite()[-1][1])}"
        for one in series
        if one.finite()
    ]
    return [*lines, f"{'':>{_LABEL}}  {'   '.join(legend)}"]


def _label(value: float) -> str:
    return format_decimal(value, 3) if abs(value) < 1000 else f"{value:.1e}"


def _range(values: list[float]) -> tuple[float, float]:
    """The smallest value and the 99th percentile, so that one spike does not flatten the rest."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[math.ceil(0.99 * len(ordered)) - 1]
    pad = max(0.5, abs(low) * 0.01)
    return (low, high) if high > low else (low - pad, high + pad)


def _scale(value: float, low: float, high: float, cells: int) -> int:
    share = (value - low) / (high - low) if high > low else 0.5
    return min(cells - 1, max(0, round(share * (cells - 1))))


def _columns(dots: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """One dot for each column: the mean of the dots in that column."""
    by_column: dict[int, list[int]] = {}
    for x, y in dots:
        by_column.setdefault(x, []).append(y)
    return [(x, round(sum(ys) / len(ys))) for x, ys in sorted(by_column.items())]


def _draw(cells: list[list[tuple[str, str]]], dots: list[tuple[int, int]], style: str) -> None:
    """Connect the dots with straight lines."""
    segments = pairwise(dots) if len(dots) > 1 else [(dots[0], dots[0])]
    for (x0, y0), (x1, y1) in segments:
        length = max(abs(x1 - x0), abs(y1 - y0), 1)
        for step in range(length + 1):
            x, y = x0 + round((x1 - x0) * step / length), y0 + round((y1 - y0) * step / length)
            old = cells[y // 4][x // 2][0]
            bits = ord(old) - 0x2800 if 0x2800 <= ord(old) <= 0x28FF else 0
            cells[y // 4][x // 2] = (chr(0x2800 + (bits | _DOTS[y % 4][x % 2])), style)


def _styled(line: list[tuple[str, str]], style: Styler) -> str:
    text = "".join(style(name, cell) if name else cell for cell, name in line)
    return text.rstrip()
