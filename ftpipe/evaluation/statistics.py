"""Paired statistics for comparing models: exact tests, intervals, corrections and power, from the standard library.

Everything here is paired, because two models that answer the same items share the items' difficulty, and taking that
out is the main saver of variance. Rates and differences are shares (0.03 is three points), confidences likewise.
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
"""Resamples of a bootstrap or permutation: the interval's ends move by about a hundredth of its width."""


MIN_RESAMPLES = 1000
"""Resamples that are made of however many items."""


def resamples_for(items: int) -> int:
    """Resamples for so many items: fewer where each costs more, since more items need them less."""
    return max(MIN_RESAMPLES, min(DEFAULT_RESAMPLES, 2_000_000 // max(1, items)))


@dataclass(frozen=True)
class Interval:
    """A value with the range that the confidence covers."""

    low: float
    value: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True where the whole range lies on one side of zero."""
        return self.low > 0 or self.high < 0


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test for paired right and wrong.

    Args:
        only_first: Items that only the first arm had right.
        only_second: Items that only the second arm had right.

    Returns:
        p in 0 to 1; 1 where no item tells the arms apart.
    """
    differing = only_first + only_second
    term, tail = 1, 1
    for i in range(1, min(only_first, only_second) + 1):
        term = term * (differing - i + 1) // i
        tail += term
    return min(1.0, 2 * tail / (1 << differing))


def wilson(correct: int, total: int, confidence: float = 0.95) -> Interval:
    """Wilson score interval of one rate; 0 to 1 where nothing was counted."""
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
    """Interval of ``second - first`` for paired rates, by Newcombe's square-and-add of two Wilson intervals.

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
    """The correlation of the two arms' outcomes, pulled towards 0 where it is positive (method 10)."""
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
    """Holm's step-down correction, in the order that the values came in."""
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
        groups: Items that belong together (one document, one dialogue); a group of one each where all stand alone.
        statistic: Of the items of all the groups that were drawn.
        confidence: Share that the interval covers.
        resamples: Number of resamples.
        seed: Makes the interval repeatable.
    """
    value = statistic([item for group in groups for item in group])
    if len(groups) < 2:
        return Interval(-math.inf, value, math.inf)
    generator = random.Random(seed)  # noqa: S311  # resampling, not secrecy
    drawn = sorted(
        statistic([item for group in generator.choices(groups, k=len(groups)) for item in group])
        for _ in range(resamples)
    )
    tail = (1 - confidence) / 2
    return Interval(_quantile(drawn, tail), value, _quantile(drawn, 1 - tail))


def mean_bootstrap(
    differences: Sequence[float], *, confidence: float = 0.95, resamples: int = DEFAULT_RESAMPLES, seed: int = 0
) -> Interval:
    """Bootstrap interval of a mean: the paired one, where the values are differences item by item."""
    if len(differences) < 2:
        return Interval(-math.inf, fmean(differences) if differences else math.nan, math.inf)
    generator = random.Random(seed)  # noqa: S311  # resampling, not secrecy
    count = len(differences)
    drawn = sorted(sum(generator.choices(differences, k=count)) / count for _ in range(resamples))
    tail = (1 - confidence) / 2
    return Interval(_quantile(drawn, tail), fmean(differences), _quantile(drawn, 1 - tail))


def permutation(
    pairs: Sequence[Sequence[tuple[T, T]]],
    difference: Callable[[list[tuple[T, T]]], float],
    *,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> float:
    """Two-sided p of a paired difference, by swapping the arms of whole groups at random.

    The test holds for any statistic: if the arms were alike, each group's labels could as well be the other way.
    One is added above and below, so that p is never 0 and the test never too eager.
    """
    observed = abs(difference([pair for group in pairs for pair in group]))
    generator = random.Random(seed)  # noqa: S311  # resampling, not secrecy
    swapped = [[(second, first) for first, second in group] for group in pairs]
    reached = 0
    for _ in range(resamples):
        bits = generator.getrandbits(max(1, len(pairs)))
        drawn = [pair for index, group in enumerate(pairs) for pair in (swapped[index] if bits >> index & 1 else group)]
        reached += abs(difference(drawn)) >= observed - 1e-12
    return (reached + 1) / (resamples + 1)


def sign_flip(differences: Sequence[float], *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0) -> float:
    """Two-sided p that a mean difference is 0, by turning the signs of the differences at random."""
    moved = [value for value in differences if value]
    if not moved:
        return 1.0
    observed = abs(math.fsum(moved))
    generator = random.Random(seed)  # noqa: S311  # resampling, not secrecy
    total = math.fsum(moved)
    reached = 0
    for _ in range(resamples):
        bits = generator.getrandbits(len(moved))
        turned = sum(value for index, value in enumerate(moved) if bits >> index & 1)
        reached += abs(total - 2 * turned) >= observed - 1e-9
    return (reached + 1) / (resamples + 1)


def binary_items_needed(discordant: float, gain: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """Items that a paired comparison of right and wrong needs.

    Args:
        discordant: Share of items whose outcome differs between the arms.
        gain: Difference of the rates to be found; its sign does not matter.
        power: Chance of finding it.
        alpha: Two-sided error that is accepted.
    """
    effect = abs(gain)
    spread = max(discordant, effect)
    wanted = z_value(1 - alpha) * math.sqrt(spread) + _NORMAL.inv_cdf(power) * math.sqrt(spread - effect * effect)
    return math.ceil((wanted / effect) ** 2 - 1e-9)


def score_items_needed(differences: Sequence[float], gain: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """Items that a paired comparison of scores needs to find ``gain``, with the spread that was seen."""
    spread = stdev(differences) if len(differences) > 1 else 1.0
    reach = z_value(1 - alpha) + _NORMAL.inv_cdf(power)
    return max(2, math.ceil((reach * spread / abs(gain)) ** 2 - 1e-9))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values lie, between neighbours where needed; NaN for none."""
    return _quantile(sorted(values), share) if values else math.nan


def z_value(confidence: float) -> float:
    """Standard normal deviations that a two-sided interval reaches to each side, 1.96 for 0.95."""
    return _NORMAL.inv_cdf((1 + confidence) / 2)


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    lower = math.floor(position)
    upper = min(lower + 1, len(ordered) - 1)
    return ordered[lower] + (ordered[upper] - ordered[lower]) * (position - lower)
