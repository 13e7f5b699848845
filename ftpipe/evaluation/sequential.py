"""Compare two models while requests arrive: intervals and verdicts that hold however often one looks.

An ordinary 95 % interval holds for one look; whoever looks after each request will sooner or later see two equal
models "differ". The intervals here hold for all looks together: with probability 0.95 the mean is in each of them.

The method is betting against each possible mean, with a fixed share of the wealth, averaged over several shares. If
the mean is the one that is bet against, the wealth is a martingale and reaches ``2 / (1 - confidence)`` with a
probability of at most ``(1 - confidence) / 2`` (Ville's inequality). Means against which a bettor became that rich are
excluded.

Sources, 2026-11-28: I. Waudby-Smith and A. Ramdas, Estimating means of bounded random variables by betting, JRSS B 86
(2024), https://arxiv.org/abs/2010.09686; J. J. Ryu and A. Bhatt, On confidence sequences for bounded random processes
via universal gambling strategies, https://arxiv.org/abs/2207.12382 (averages over fixed shares, and why the result is
an interval).

Assumptions: outcomes are bounded, and the mean of the next one, given all before, stays the same. They need not be
independent, normal or equally spread. If the traffic changes, the interval is about a mixture of old and new traffic.
The order of outcomes does not matter, so counts are enough, and a database can hold them.

Libraries, 2026-11-28: confseq 0.0.11 (2023) compiles C++ against Boost, and ville 0.1.0 needs scipy; both need numpy,
and take all outcomes in order. What is needed of them is shorter than an adapter would be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ftpipe.evaluation.statistics import Interval

Counts = Mapping[float, float]
"""Outcome → how often it occurred."""
SequentialVerdict = Literal["undecided", "no_difference", "higher", "lower"]

SHARES = tuple(0.99 * 0.75**step for step in range(24))
"""Shares of the wealth that are bet: small ones find small differences in many outcomes, large ones the opposite."""
STEPS_PER_UNIT = 200
"""Outcomes are rounded to this many steps, so that there are few different ones."""
INTERVAL_PRECISION = 1e-5
"""Of an interval's ends, as a share of the range of outcomes."""
MAX_REQUESTS = 10_000_000
"""No verdict is expected after more requests than this."""
MAX_RATIO = 10.0
"""A ratio of two latencies or costs counts as this, if it is larger, and as its inverse, if it is smaller."""


def rounded(value: float) -> float:
    """An outcome as it is counted."""
    return round(value * STEPS_PER_UNIT) / STEPS_PER_UNIT


def log_ratio(new: float, old: float) -> float | None:
    """The outcome of two latencies or costs, from -1 (a tenth or less) to 1 (tenfold or more).

    Returns:
        ``None`` if one of them is not positive.
    """
    if not (new > 0 and old > 0):
        return None
    return rounded(max(-1.0, min(1.0, math.log(new / old) / math.log(MAX_RATIO))))


def ratio_interval(interval: Interval) -> Interval:
    """The interval of the geometric mean of ratios, from that of the mean of ``log_ratio``."""
    return Interval(*(MAX_RATIO**end for end in (interval.low, interval.value, interval.high)))


@dataclass(frozen=True)
class SequentialComparison:
    """What the mean of an outcome says about two models.

    Attributes:
        bounds: Lowest and highest possible outcome.
        equal: Lowest and highest mean of models that do not differ.
        similar: Lowest and highest mean of models whose difference does not matter.
        confidence: Probability that all intervals and verdicts are right, at all looks together.
    """

    bounds: tuple[float, float]
    equal: tuple[float, float]
    similar: tuple[float, float]
    confidence: float = 0.95

    def interval(self, counts: Counts) -> Interval:
        """The mean with its interval; the bounds without outcomes."""
        low, high = self.bounds
        scaled = self._scaled(counts)
        if not scaled:
            return Interval(low, math.nan, high)
        mean = _mean(scaled)
        below = self._bound(scaled, mean)
        above = 1 - self._bound(_mirrored(scaled), 1 - mean)
        return Interval(*(low + (high - low) * share for share in (below, mean, above)))

    def verdict(self, counts: Counts) -> SequentialVerdict:
        """What is known after these outcomes."""
        return self._verdict(self._scaled(counts))

    def more_requests(self, counts: Counts) -> int | None:
        """How many more requests a verdict probably takes, if they are like those so far.

        Returns:
            0 if there is a verdict, and ``None`` without outcomes or if ``MAX_REQUESTS`` would not be enough.
        """
        scaled = self._scaled(counts)
        total = sum(scaled.values())
        if not total:
            return None
        factor = 1.0
        while self._verdict(_repeated(scaled, factor)) == "undecided":
            factor *= 2
            if factor * total > MAX_REQUESTS:
                return None
        lower = factor / 2
        while factor > 1 and factor - lower > 0.01 * factor:
            middle = (lower + factor) / 2
            if self._verdict(_repeated(scaled, middle)) == "undecided":
                lower = middle
            else:
                factor = middle
        return math.ceil((factor - 1) * total)

    def _verdict(self, scaled: Counts) -> SequentialVerdict:
        if self._is_above(scaled, self.similar[0]) and self._is_below(scaled, self.similar[1]):
            return "no_difference"
        if self._is_above(scaled, self.equal[1]):
            return "higher"
        return "lower" if self._is_below(scaled, self.equal[0]) else "undecided"

    def _is_above(self, scaled: Counts, value: float) -> bool:
        """Whether the whole interval is above a value."""
        low, high = self.bounds
        return value < low or self._is_excluded(scaled, (value - low) / (high - low))

    def _is_below(self, scaled: Counts, value: float) -> bool:
        """Whether the whole interval is below a value."""
        low, high = self.bounds
        return value > high or self._is_excluded(_mirrored(scaled), (high - value) / (high - low))

    def _scaled(self, counts: Counts) -> dict[float, float]:
        """The counts with outcomes from 0 to 1."""
        low, high = self.bounds
        return {(outcome - low) / (high - low): count for outcome, count in counts.items() if count}

    def _is_excluded(self, scaled: Counts, mean: float) -> bool:
        """Whether a mean, and every lower one, is excluded."""
        if not 0 <= mean < 1 or not scaled or mean >= _mean(scaled):
            return mean < 0  # a bet that the mean is higher has won nothing
        return mean == 0 or _log_wealth(scaled, mean) >= math.log(2 / (1 - self.confidence))

    def _bound(self, scaled: Counts, mean: float) -> float:
        """The highest excluded mean, or 0."""
        excluded, possible = 0.0, mean
        while possible - excluded > INTERVAL_PRECISION:
            middle = (excluded + possible) / 2
            if self._is_excluded(scaled, middle):
                excluded = middle
            else:
                possible = middle
        return excluded


def difference_of_scores(margin: float, confidence: float = 0.95) -> SequentialComparison:
    """Compare paired scores from 0 to 1; an outcome is the new model's minus the old one's.

    Args:
        margin: Largest mean difference that does not matter.
        confidence: Probability that all verdicts are right.
    """
    return SequentialComparison((-1.0, 1.0), (0.0, 0.0), (-margin, margin), confidence)


def rate_of_disagreement(margin: float, confidence: float = 0.95) -> SequentialComparison:
    """Compare answers with each other; an outcome is 1 if the two models' answers differ, else 0.

    Args:
        margin: Largest share of different answers that does not matter; a verdict says whether the share is higher.
        confidence: Probability that all verdicts are right.
    """
    return SequentialComparison((0.0, 1.0), (0.0, margin), (-1.0, margin), confidence)


def _log_wealth(scaled: Counts, mean: float) -> float:
    """Logarithm of what a bettor has who started with 1 and bet that outcomes are above ``mean``."""
    totals = [0.0] * len(SHARES)
    for outcome, count in scaled.items():
        for index, gain in enumerate(_log_gains(outcome / mean)):
            totals[index] += count * gain
    richest = max(totals)
    return richest + math.log(math.fsum(math.exp(total - richest) for total in totals) / len(SHARES))


@lru_cache(maxsize=4096)
def _log_gains(odds: float) -> tuple[float, ...]:
    """Logarithm of the factor by which one outcome changes the wealth, for each share."""
    return tuple(math.log1p(share * (odds - 1)) for share in SHARES)


def _mean(scaled: Counts) -> float:
    return math.fsum(outcome * count for outcome, count in scaled.items()) / math.fsum(scaled.values())


def _mirrored(scaled: Counts) -> dict[float, float]:
    return {1 - outcome: count for outcome, count in scaled.items()}


def _repeated(scaled: Counts, factor: float) -> dict[float, float]:
    return {outcome: count * factor for outcome, count in scaled.items()}
