"""Paired statistics for comparing models: exact tests, intervals, corrections and sample sizes.

Everything is paired: two models that answer the same items share the items' difficulty, and pairing removes that
variance. Rates, differences and confidences are fractions (0.03 is three points). It needs only the standard library.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import TypeVar

T = TypeVar("T")

_NORMAL = NormalDist()
DEFAULT_RESAMPLES = 4000
"""Resamples of a bootstrap or permutation: with these the ends of an interval vary by about 1% of its width."""

MIN_RESAMPLES = 1000
"""Resamples for any number of items."""


def resamples_for(items: int) -> int:
    """Resamples for so many items: fewer for many items, where each resample costs more and matters less."""
    return max(MIN_RESAMPLES, min(DEFAULT_RESAMPLES, 2_000_000 // max(1, items)))


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    low: float
    value: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True if the whole interval is on one side of zero."""
        return self.low > 0 or self.high < 0


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test for paired binary outcomes.

    Args:
        only_first: Items that only the first arm answered correctly.
        only_second: Items that only the second arm answered correctly.

    Returns:
        The p-value; 1 if the arms differ on no item.
    """
    discordant = only_first + only_second
    term, tail = 1, 1
    for i in range(1, min(only_first, only_second) + 1):
        term = term * (discordant - i + 1) // i
        tail += term
    return min(1.0, 2 * tail / (1 << discordant))


def wilson(correct: int, total: int, confidence: float = 0.95) -> Interval:
    """Wilson score interval of a rate; 0 to 1 without observations."""
    if total == 0:
        return Interval(0.0, math.nan, 1.0)
    z = z_value(confidence)
    rate = correct / total
    centre = (rate + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == total else min(1.0, centre + half)
    return Interval(low, rate, high)


def paired_rate_difference(
    both: int, only_first: int, only_second: int, neither: int, confidence: float = 0.95
) -> Interval:
    """Interval of ``second - first`` for paired rates, by Newcombe's combination of two Wilson intervals.

    Source: R. G. Newcombe, Statistics in Medicine 17 (1998), 2635-2650, method 10.
    """
    total = both + only_first + only_second + neither
    if total == 0:
        return Interval(-1.0, math.nan, 1.0)
    first = wilson(both + only_first, total, confidence)
    second = wilson(both + only_second, total, confidence)
    phi = _phi(both, only_first, only_second, neither)
    difference = (only_second - only_first) / total
    below = _square_and_add(second.value - second.low, first.high - first.value, phi)
    above = _square_and_add(second.high - second.value, first.value - first.low, phi)
    return Interval(max(-1.0, difference - below), difference, min(1.0, difference + above))


def _phi(both: int, only_first: int, only_second: int, neither: int) -> float:
    """The correlation of the two arms' outcomes, with the continuity correction of method 10 if it is positive."""
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    if margins == 0:
        return 0.0
    product = float(both * neither - only_first * only_second)
    if product > 0:
        product = max(0.0, product - (both + only_first + only_second + neither) / 2)
    return product / math.sqrt(margins)


def _square_and_add(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values; the result is in the order of the input."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def bootstrap(
    groups: Sequence[Sequence[T]],
    statistic: Callable[[list[T]], float],
    *,
    confidence: float = 0.95,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of any statistic, resampling whole groups.

    Args:
        groups: Items of one cluster (a document, a dialogue) each; independent items are groups of one.
        statistic: Computed from the items of all groups in a resample.
        confidence: Coverage of the interval.
        resamples: Number of resamples.
        seed: Makes the interval repeatable.
    """
    value = statistic([item for group in groups for item in group])
    if len(groups) < 2:
        return Interval(-math.inf, value, math.inf)
    generator = random.Random(seed)  # noqa: S311  # resampling, not security
    estimates = sorted(
        statistic([item for group in generator.choices(groups, k=len(groups)) for item in group])
        for _ in range(resamples)
    )
    tail = (1 - confidence) / 2
    return Interval(_quantile(estimates, tail), value, _quantile(estimates, 1 - tail))


def mean_bootstrap(
    differences: Sequence[float], *, confidence: float = 0.95, resamples: int = DEFAULT_RESAMPLES, seed: int = 0
) -> Interval:
    """Bootstrap interval of a mean; the paired bootstrap if the values are differences item by item."""
    if len(differences) < 2:
        return Interval(-math.inf, fmean(differences) if differences else math.nan, math.inf)
    generator = random.Random(seed)  # noqa: S311  # resampling, not security
    count = len(differences)
    estimates = sorted(sum(generator.choices(differences, k=count)) / count for _ in range(resamples))
    tail = (1 - confidence) / 2
    return Interval(_quantile(estimates, tail), fmean(differences), _quantile(estimates, 1 - tail))


def permutation(
    pairs: Sequence[Sequence[tuple[T, T]]],
    difference: Callable[[list[tuple[T, T]]], float],
    *,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> float:
    """Two-sided p-value of a paired difference, by swapping the arms of whole groups at random.

    The test is valid for any statistic: under the null hypothesis the arms of each group are exchangeable. One is
    added to numerator and denominator, so that p is never 0 and the test stays conservative.
    """
    observed = abs(difference([pair for group in pairs for pair in group]))
    generator = random.Random(seed)  # noqa: S311  # resampling, not security
    swapped = [[(second, first) for first, second in group] for group in pairs]
    as_extreme = 0
    for _ in range(resamples):
        bits = generator.getrandbits(max(1, len(pairs)))
        resample = [
            pair for index, group in enumerate(pairs) for pair in (swapped[index] if bits >> index & 1 else group)
        ]
        as_extreme += abs(difference(resample)) >= observed - 1e-12
    return (as_extreme + 1) / (resamples + 1)


def sign_flip(differences: Sequence[float], *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0) -> float:
    """Two-sided p-value for a mean difference of 0, by flipping the signs of the differences at random."""
    nonzero = [value for value in differences if value]
    if not nonzero:
        return 1.0
    observed = abs(math.fsum(nonzero))
    generator = random.Random(seed)  # noqa: S311  # resampling, not security
    total = math.fsum(nonzero)
    as_extreme = 0
    for _ in range(resamples):
        bits = generator.getrandbits(len(nonzero))
        flipped = sum(value for index, value in enumerate(nonzero) if bits >> index & 1)
        as_extreme += abs(total - 2 * flipped) >= observed - 1e-9
    return (as_extreme + 1) / (resamples + 1)


def binary_items_needed(discordant: float, effect: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """Number of items that a paired comparison of a binary metric needs.

    Args:
        discordant: Share of items whose outcome differs between the arms.
        effect: Difference of the rates to detect; its sign does not matter.
        power: Probability of detecting it.
        alpha: Two-sided significance level.
    """
    size = abs(effect)
    variance = max(discordant, size)
    reach = z_value(1 - alpha) * math.sqrt(variance) + _NORMAL.inv_cdf(power) * math.sqrt(variance - size * size)
    return math.ceil((reach / size) ** 2 - 1e-9)


def score_items_needed(differences: Sequence[float], effect: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """Number of items that a paired comparison of scores needs to detect ``effect``, given the observed spread."""
    spread = stdev(differences) if len(differences) > 1 else 1.0
    reach = z_value(1 - alpha) + _NORMAL.inv_cdf(power)
    return max(2, math.ceil((reach * spread / abs(effect)) ** 2 - 1e-9))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values lie, interpolated; NaN without values."""
    return _quantile(sorted(values), share) if values else math.nan


def z_value(confidence: float) -> float:
    """Half width of a two-sided interval in standard deviations: 1.96 for 0.95."""
    return _NORMAL.inv_cdf((1 + confidence) / 2)


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    lower = math.floor(position)
    upper = min(lower + 1, len(ordered) - 1)
    return ordered[lower] + (ordered[upper] - ordered[lower]) * (position - lower)
