"""The statistics agree with reference values, and keep their guarantees on simulated data."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpipe.evaluation.statistics import (
    binary_items_needed,
    bootstrap,
    holm,
    mcnemar,
    mean_bootstrap,
    paired_rate_difference,
    percentile,
    permutation,
    score_items_needed,
    sign_flip,
    wilson,
)

small = st.integers(0, 60)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(10, 2, 0.03857), (0, 6, 0.03125), (15, 4, 0.01921), (5, 5, 1), (1, 0, 1), (0, 0, 1)],
)
def test_mcnemar_matches_reference_values(only_first: int, only_second: int, p: float) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx(p, abs=5e-6)


@given(small, small)
def test_mcnemar_and_newcombe_are_symmetric(first: int, second: int) -> None:
    assert mcnemar(first, second) == mcnemar(second, first)
    one = paired_rate_difference(20, first, second, 20)
    other = paired_rate_difference(20, second, first, 20)
    assert (one.low, one.value, one.high) == pytest.approx((-other.high, -other.value, -other.low))


@given(small, small)
def test_mcnemar_is_a_probability(first: int, second: int) -> None:
    """Between 0 and 1, and never 0."""
    assert 0 < mcnemar(first, second) <= 1


def test_mcnemar_does_not_overflow() -> None:
    assert mcnemar(2000, 2000) == 1
    assert 0 < mcnemar(1900, 2100) < 0.01


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(45, 50, 0.7864, 0.9565), (170, 200, 0.7939, 0.8929), (0, 10, 0, 0.2775), (10, 10, 0.7225, 1)],
)
def test_wilson_matches_reference_values(right: int, total: int, low: float, high: float) -> None:
    interval = wilson(right, total)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


@given(st.integers(1, 40), st.integers(0, 40), st.integers(2, 5))
def test_wilson_narrows_with_more_items(total: int, right: int, times: int) -> None:
    right = min(right, total)
    few, many = wilson(right, total), wilson(right * times, total * times)
    assert many.high - many.low <= few.high - few.low + 1e-12


def test_wilson_without_items_is_zero_to_one() -> None:
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0, 1)


def test_holm_matches_reference_values() -> None:
    """In the order of the input."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_and_keeps_the_order(values: list[float]) -> None:
    """A corrected value is at least the raw one, and the order of values stays."""
    adjusted = holm(values)
    assert all(raw <= corrected <= 1 for raw, corrected in zip(values, adjusted, strict=True))
    ranked = [corrected for _, corrected in sorted(zip(values, adjusted, strict=True))]
    assert all(one <= other for one, other in pairwise(ranked))


@pytest.mark.parametrize(
    ("effect", "discordant", "needed"),
    [
        (0.02, 0.10, 1960), (0.02, 0.20, 3922), (0.02, 0.30, 5884),
        (0.03, 0.10, 870), (0.03, 0.20, 1742), (0.03, 0.30, 2614),
        (0.05, 0.10, 312), (0.05, 0.20, 626), (0.05, 0.30, 940),
        (0.10, 0.20, 155), (0.10, 0.30, 233),
    ],
)  # fmt: skip
def test_binary_items_needed_matches_reference_table(effect: float, discordant: float, needed: int) -> None:
    """Eighty percent power at five percent error; rounding up may add one."""
    assert binary_items_needed(discordant, effect) - needed in (0, 1)


def test_score_items_needed_grows_for_small_effects() -> None:
    """The spread comes from the data."""
    differences = [0.1, -0.2, 0.3, 0.05, -0.1, 0.2]
    assert score_items_needed(differences, 0.02) > score_items_needed(differences, 0.1) >= 2


def test_newcombe_coverage_is_95_percent() -> None:
    """Simulated with a known difference of five points and correlated arms."""
    generator = random.Random(7)
    hits = 0
    for _ in range(600):
        counts = [0, 0, 0, 0]
        for _ in range(120):
            counts[generator.choices(range(4), weights=[60, 10, 15, 15])[0]] += 1
        interval = paired_rate_difference(counts[0], counts[1], counts[2], counts[3])
        hits += interval.low <= 0.05 <= interval.high
    assert 0.93 <= hits / 600 <= 0.98


def test_newcombe_without_items_is_widest() -> None:
    interval = paired_rate_difference(0, 0, 0, 0)
    assert (interval.low, interval.high) == (-1, 1)


def test_bootstrap_is_repeatable_and_contains_the_mean() -> None:
    """The same seed gives the same interval."""
    differences = [generator / 10 for generator in range(-3, 8)]
    first, again = mean_bootstrap(differences, seed=3), mean_bootstrap(differences, seed=3)
    assert first == again
    assert first.low < first.value < first.high


def test_bootstrap_of_one_value_has_no_interval() -> None:
    assert mean_bootstrap([0.5]).low == -math.inf
    assert bootstrap([[1.0]], sum).high == math.inf


def test_bootstrap_of_clusters_is_wider() -> None:
    """Ten dialogues of ten equal turns are ten observations, not a hundred."""
    values = [float(index % 2) for index in range(10) for _ in range(10)]
    alone = bootstrap([[value] for value in values], lambda drawn: sum(drawn) / len(drawn), resamples=500)
    together = bootstrap(
        [values[start : start + 10] for start in range(0, 100, 10)],
        lambda drawn: sum(drawn) / len(drawn),
        resamples=500,
    )
    assert together.high - together.low > 2 * (alone.high - alone.low)


@given(st.permutations([0.4, -0.1, 0.2, 0.3, 0.0, -0.3]))
def test_sign_flip_ignores_the_order(order: list[float]) -> None:
    assert sign_flip(order, resamples=400) == pytest.approx(sign_flip(sorted(order), resamples=400), abs=0.12)


def test_permutation_tests_of_equal_arms_give_one() -> None:
    """P = 1 without any difference."""
    assert sign_flip([0.0] * 50) == 1
    assert permutation([[(1.0, 1.0)]] * 20, lambda pairs: sum(b - a for a, b in pairs), resamples=100) == 1


def test_permutation_tests_detect_a_clear_difference() -> None:
    """Twenty items, all better."""
    assert sign_flip([0.5] * 20) < 0.001
    pairs = [[(0.0, 1.0)]] * 20
    assert permutation(pairs, lambda drawn: sum(b - a for a, b in drawn) / len(drawn), resamples=999) < 0.01


def test_percentile_interpolates() -> None:
    """The median of an even number of values is the mean of two."""
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert percentile([1.0], 0.95) == 1.0
    assert percentile([], 0.5) != percentile([], 0.5)
