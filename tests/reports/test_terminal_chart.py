"""The line charts of the terminal: what they draw, their gaps and their size."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from ftpipe.reports.terminal_chart import Series, plot

FALLING = [(step, 3 * math.exp(-step / 20)) for step in range(1, 91)]


def test_plot_falling_curve_starts_high_and_ends_low() -> None:
    lines = plot([Series("train", FALLING)], width=60, height=6)
    assert lines[0].split("┤")[1][0] != " "
    assert len(lines[0].split("┤")[1]) < 10
    assert lines[5].rstrip()[-1] != " "
    assert "step 1" in lines[6]
    assert "90" in lines[6]
    assert "train 0.0333" in lines[7]


def test_plot_marker_distinguishes_curves_without_color() -> None:
    lines = plot([Series("train", FALLING), Series("validation", FALLING[::30], marker="◆")])
    assert sum(line.count("◆") for line in lines[:-1]) == 3
    assert "◆ validation" in lines[-1]


def test_plot_leaves_gaps_for_non_finite_values() -> None:
    assert plot([Series("train", [(1, math.nan), (2, math.inf)])]) == []
    assert plot([]) == []
    assert plot([Series("train", [(1, math.nan), (2, 1.0), (3, 0.5)])])


def test_plot_scale_ignores_single_spike() -> None:
    spiky = [*FALLING, (90.5, 1e9), *((step + 90, 0.03) for step, _ in FALLING)]
    assert "e+" not in "".join(plot([Series("train", spiky)]))


def test_plot_styles_every_cell() -> None:
    lines = plot([Series("train", FALLING, "code")], style=lambda name, text: f"<{name}:{text}>")
    assert "<code:" in lines[0]


@given(
    st.lists(st.tuples(st.floats(), st.floats()), max_size=30),
    st.integers(20, 120),
    st.integers(1, 12),
)
def test_plot_stays_within_width_and_height(points: list[tuple[float, float]], width: int, height: int) -> None:
    lines = plot([Series("train", points)], width=width, height=height)
    assert len(lines) in (0, height + 2)
    assert all(len(line) <= max(width, 20) for line in lines[:height])
