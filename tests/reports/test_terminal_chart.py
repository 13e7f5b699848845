"""The small charts: they draw what is there, leave gaps where nothing is, and stay in their width."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from ftpipe.reports.terminal_chart import Series, plot, sparkline

FALLING = [(step, 3 * math.exp(-step / 20)) for step in range(1, 91)]


def test_a_falling_curve_begins_high_and_ends_low() -> None:
    """The first column is drawn in the top line, the last one in the bottom line."""
    lines = plot([Series("train", FALLING)], width=60, height=6)
    assert lines[0].split("┤")[1][0] != " "
    assert len(lines[0].split("┤")[1]) < 10
    assert lines[5].rstrip()[-1] != " "
    assert "step 1" in lines[6]
    assert "90" in lines[6]
    assert "train 0.0333" in lines[7]


def test_two_curves_differ_without_colour() -> None:
    """One is a line of dots, the other has a marker, and the legend names both."""
    lines = plot([Series("train", FALLING), Series("validation", FALLING[::30], marker="◆")])
    assert sum(line.count("◆") for line in lines[:-1]) == 3
    assert "◆ validation" in lines[-1]


def test_values_that_are_not_finite_are_gaps() -> None:
    """NaN and infinity are not drawn, and alone they draw nothing."""
    assert plot([Series("train", [(1, math.nan), (2, math.inf)])]) == []
    assert plot([]) == []
    assert plot([Series("train", [(1, math.nan), (2, 1.0), (3, 0.5)])])


def test_one_spike_does_not_flatten_the_curve() -> None:
    """The scale ends at the 99th percentile."""
    spiky = [*FALLING, (90.5, 1e9), *((step + 90, 0.03) for step, _ in FALLING)]
    assert "e+" not in "".join(plot([Series("train", spiky)]))


def test_colours_go_through_paint() -> None:
    """Every drawn cell is painted in its curve's style."""
    lines = plot([Series("train", FALLING, "code")], paint=lambda style, text: f"<{style}:{text}>")
    assert "<code:" in lines[0]


@given(
    st.lists(st.tuples(st.floats(), st.floats()), max_size=30),
    st.integers(20, 120),
    st.integers(1, 12),
)
def test_any_points_stay_in_the_frame(points: list[tuple[float, float]], width: int, height: int) -> None:
    """Whatever is reported, the chart has its height and its width."""
    lines = plot([Series("train", points)], width=width, height=height)
    assert len(lines) in (0, height + 2)
    assert all(len(line) <= max(width, 20) for line in lines[:height])


def test_a_sparkline_is_resampled_and_keeps_gaps() -> None:
    """At most as wide as asked, the ends kept, nothing for nothing."""
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert len(sparkline(list(range(1000)), 20)) == 20
    assert sparkline([1.0, None, 2.0]) == "▁ █"
    assert sparkline([]) == sparkline([None, math.nan]) == ""
