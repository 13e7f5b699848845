"""Sequential comparisons keep their promise at every look, and find differences and their absence."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpipe.evaluation.sequential import (
    MAX_RATIO,
    SequentialComparison,
    difference_of_scores,
    log_ratio,
    rate_of_disagreement,
    ratio_interval,
)
from ftpipe.evaluation.statistics import Interval, wilson
from tests.benchmarks import sequential as simulation
from tests.examples import examples

SCORES, ANSWERS = difference_of_scores(0.05), rate_of_disagreement(0.05)
counts_of_scores = st.dictionaries(st.sampled_from([-1.0, -0.25, 0.0, 0.5, 1.0]), st.integers(1, 300), min_size=1)


def paired(worse: int, equal: int, better: int) -> dict[float, float]:
    return {-1.0: worse, 0.0: equal, 1.0: better}


def exact_wealth(successes: int, failures: int, rate: float, shares: tuple[float, ...]) -> float:
    """What bets on a success have won, one request after the other, in plain products."""
    wealth = [1.0] * len(shares)
    for outcome in [1] * successes + [0] * failures:
        wealth = [one * (1 + share * (outcome / rate - 1)) for one, share in zip(wealth, shares, strict=True)]
    return sum(wealth) / len(shares)


@pytest.mark.parametrize("case", simulation.EQUAL, ids=lambda case: case.name)
def test_equal_models_are_seldom_said_to_differ(case: simulation.Case) -> None:
    """The full simulation, 1,000 runs and up to 10,000 looks each, is ``python -m tests.benchmarks.sequential``."""
    runs = examples(20, 200)
    short = replace(case, requests=600, looks_every=1 if case.looks_every == 1 else 100)
    assert simulation.false_alarms(short, runs) <= runs * 0.05


def test_simulation_would_see_a_test_that_does_not_hold_at_every_look() -> None:
    """The same simulation with a confidence that is far too low finds differences between equal models."""
    careless = replace(simulation.EQUAL[0].comparison, confidence=0.2)
    case = replace(simulation.EQUAL[0], comparison=careless, requests=600)
    assert simulation.false_alarms(case, 20) > 1


def test_gap_of_five_points_is_seen() -> None:
    """All verdicts have the right direction; the median number of requests is far from the end of the runs."""
    case = replace(simulation.DIFFERENT[0], looks_every=10)
    verdicts = simulation.requests_to_verdict(case, 10)
    assert {verdict for _, verdict in verdicts} == {"lower"}
    assert 100 < median(requests for requests, _ in verdicts) < 3000


def test_wealth_is_that_of_the_bets_one_after_the_other() -> None:
    """The interval's end is the rate at which the product of all factors reaches 2 / 0.05."""
    from ftpipe.evaluation.sequential import SHARES

    interval = ANSWERS.interval({1.0: 12, 0.0: 88})
    assert exact_wealth(12, 88, interval.low, SHARES) == pytest.approx(40, rel=0.01)
    assert exact_wealth(88, 12, 1 - interval.high, SHARES) == pytest.approx(40, rel=0.01)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.5, 0.9])
def test_wealth_is_a_martingale(rate: float) -> None:
    """If the rate is right, the expected wealth after ten requests is the 1 that it was in the beginning."""
    from ftpipe.evaluation.sequential import SHARES

    expected = math.fsum(
        math.comb(10, hits) * rate**hits * (1 - rate) ** (10 - hits) * exact_wealth(hits, 10 - hits, rate, SHARES)
        for hits in range(11)
    )
    assert expected == pytest.approx(1)


def test_interval_is_wider_than_one_for_a_single_look() -> None:
    interval, single = ANSWERS.interval({1.0: 30, 0.0: 970}), wilson(30, 1000)
    assert interval.low < single.low < interval.value < single.high < interval.high
    assert interval.high - interval.low < 2.5 * (single.high - single.low)


def test_interval_without_outcomes_is_everything() -> None:
    interval = SCORES.interval({})
    assert (interval.low, interval.high) == (-1, 1)
    assert math.isnan(interval.value)
    assert SCORES.verdict({}) == "undecided"
    assert SCORES.more_requests({}) is None


@given(counts_of_scores)
def test_swapped_models_mirror_interval_and_verdict(counts: dict[float, int]) -> None:
    interval, other = SCORES.interval(counts), SCORES.interval({-outcome: n for outcome, n in counts.items()})
    assert (interval.low, interval.value, interval.high) == pytest.approx(
        (-other.high, -other.value, -other.low), abs=1e-4
    )
    mirrored = {"higher": "lower", "lower": "higher"}
    verdict = SCORES.verdict(counts)
    assert SCORES.verdict({-outcome: n for outcome, n in counts.items()}) == mirrored.get(verdict, verdict)


@given(counts_of_scores)
def test_verdict_agrees_with_interval(counts: dict[float, int]) -> None:
    """It is what the interval says, apart from the interval's precision."""
    interval, verdict = SCORES.interval(counts), SCORES.verdict(counts)
    assert interval.low <= interval.value <= interval.high
    if verdict == "no_difference":
        assert interval.low > -0.051
        assert interval.high < 0.051
    elif verdict == "undecided":
        assert interval.low < 0.001
        assert interval.high > -0.001
    else:
        assert interval.low > -0.001 if verdict == "higher" else interval.high < 0.001


@pytest.mark.parametrize(
    ("comparison", "counts", "verdict"),
    [
        (SCORES, paired(100, 850, 50), "lower"),
        (SCORES, paired(50, 850, 100), "higher"),
        (SCORES, paired(10, 180, 10), "undecided"),
        (SCORES, paired(200, 3600, 200), "no_difference"),
        (SCORES, paired(60, 3900, 140), "no_difference"),  # a difference of two points, and it is within the margin
        (ANSWERS, {0.0: 200}, "no_difference"),
        (ANSWERS, {0.0: 50}, "undecided"),
        (ANSWERS, {0.0: 170, 1.0: 30}, "higher"),
    ],
)
def test_verdict_of_counts(comparison: SequentialComparison, counts: dict[float, float], verdict: str) -> None:
    assert comparison.verdict(counts) == verdict


def test_more_requests_lead_to_a_verdict() -> None:
    """As many more of the same kind are enough, and much fewer are not."""
    counts = paired(10, 180, 10)
    more = SCORES.more_requests(counts)
    assert more is not None
    assert SCORES.verdict({outcome: n * (200 + more) / 200 for outcome, n in counts.items()}) == "no_difference"
    assert SCORES.verdict({outcome: n * (200 + more * 0.9) / 200 for outcome, n in counts.items()}) == "undecided"
    assert SCORES.more_requests(paired(200, 3600, 200)) == 0


def test_more_requests_are_unknown_at_the_margin() -> None:
    """No number of requests shows that a share is below 5 % if it is exactly that."""
    assert ANSWERS.more_requests({1.0: 50, 0.0: 950}) is None


def test_ratios_are_symmetric_and_bounded() -> None:
    assert log_ratio(2, 1) == -(log_ratio(1, 2) or 0)
    assert log_ratio(1000, 1) == 1
    assert log_ratio(1, 1000) == -1
    assert log_ratio(0, 1) is None
    assert log_ratio(1, 0) is None
    interval = ratio_interval(Interval(-1, 0, 1))
    assert (interval.low, interval.value, interval.high) == pytest.approx((1 / MAX_RATIO, 1, MAX_RATIO))


def test_latency_ratio_is_found() -> None:
    """A model that takes twice as long on each request."""
    counts = Counter({log_ratio(2, 1) or 0.0: 400})
    interval = ratio_interval(SCORES.interval(counts))
    assert interval.low < 2 < interval.high * 1.02
    assert interval.value == pytest.approx(2, rel=0.02)
    assert interval.low > 1.5
