"""From scores to evidence: each arm's intervals, the challengers against the baseline, the verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ftpipe.evaluation.metrics import MACRO_F1, Metric
from ftpipe.evaluation.metrics.text import macro_f1, normalise
from ftpipe.evaluation.statistics import (
    Interval,
    binary_items_needed,
    bootstrap,
    holm,
    mcnemar,
    mean_bootstrap,
    paired_rate_difference,
    permutation,
    resamples_for,
    score_items_needed,
    sign_flip,
    wilson,
)
from ftpipe.records.evaluation import Arm, Comparison, Outcome, Score, Verdict

MIN_EFFECT = 0.02
"""Smallest difference that "more items needed" plans for; below it a test set grows beyond all use."""

LABEL_RESAMPLES = 1000
"""Resamples where each costs a pass over all items."""

Labels = tuple[str, str]
ComparisonKey = tuple[str, str, str]
"""Metric, baseline, challenger."""


@dataclass(frozen=True)
class Difference:
    """What the data say about a challenger on one metric."""

    interval: Interval
    p: float
    method: str
    only_baseline: int | None = None
    only_challenger: int | None = None
    items_needed: int = 0
    """Items for 80 % power at this difference."""


class Evidence:
    """Answers questions about scored items; everything is paired by item and grouped by cluster.

    Args:
        outcomes: Items with every arm's scores.
        metrics: The metrics that were taken item by item.
    """

    def __init__(self, outcomes: Sequence[Outcome], metrics: Sequence[Metric]) -> None:
        self.outcomes = list(outcomes)
        self.is_binary = {metric.name: metric.kind == "right-or-wrong" for metric in metrics}
        self.clusters = _cluster_indices(self.outcomes)
        self.is_clustered = len(self.clusters) < len(self.outcomes)
        self.resamples = resamples_for(len(self.outcomes))

    def arm_score(self, arm: str, metric: str, confidence: float = 0.95) -> Score:
        """One arm's score with its interval."""
        if metric == MACRO_F1:
            grouped = [[self._labels(index, arm) for index in group] for group in self.clusters]
            interval = bootstrap(grouped, macro_f1, confidence=confidence, resamples=LABEL_RESAMPLES)
            return _score(metric, interval, len(self.outcomes), "bootstrap")
        values = self._values(arm, metric)
        if self._is_binary_metric(metric, values):
            return _score(metric, wilson(round(sum(values)), len(values), confidence), len(values), "wilson")
        return _score(metric, self._mean(values, confidence), len(values), "bootstrap")

    def difference(self, baseline: str, challenger: str, metric: str, confidence: float = 0.95) -> Difference:
        """The challenger against the baseline on one metric."""
        if metric == MACRO_F1:
            return self._label_difference(baseline, challenger, confidence)
        before, after = self._values(baseline, metric), self._values(challenger, metric)
        if self._is_binary_metric(metric, before + after):
            return _binary_difference(before, after, confidence)
        changes = [new - old for old, new in zip(before, after, strict=True)]
        interval = self._mean(changes, confidence)
        sums = [math.fsum(changes[index] for index in group) for group in self.clusters]
        gain = max(MIN_EFFECT, abs(interval.value))
        needed = score_items_needed(changes, gain, alpha=1 - confidence)
        return Difference(
            interval,
            sign_flip(sums, resamples=self.resamples),
            self._method_name("paired bootstrap"),
            items_needed=needed,
        )

    def _label_difference(self, baseline: str, challenger: str, confidence: float) -> Difference:
        grouped = [
            [(self._labels(index, baseline), self._labels(index, challenger)) for index in group]
            for group in self.clusters
        ]
        interval = bootstrap(grouped, _macro_f1_difference, confidence=confidence, resamples=LABEL_RESAMPLES)
        p = permutation(grouped, _macro_f1_difference, resamples=LABEL_RESAMPLES)
        return Difference(interval, p, self._method_name("paired bootstrap of macro-F1"))

    def _method_name(self, method: str) -> str:
        return f"{method} by cluster" if self.is_clustered else method

    def _values(self, arm: str, metric: str) -> list[float]:
        return [outcome.scores[arm][metric] for outcome in self.outcomes]

    def _labels(self, index: int, arm: str) -> Labels:
        outcome = self.outcomes[index]
        return normalise(outcome.item.expected), normalise(outcome.answers[arm][0].text)

    def _is_binary_metric(self, metric: str, values: Sequence[float]) -> bool:
        """True where every value is plainly right or wrong, each from an item of its own."""
        is_binary = self.is_binary.get(metric, False) and all(value in (0.0, 1.0) for value in values)
        return is_binary and not self.is_clustered

    def _mean(self, values: Sequence[float], confidence: float) -> Interval:
        if not self.is_clustered:
            return mean_bootstrap(values, confidence=confidence, resamples=self.resamples)
        grouped = [[values[index] for index in group] for group in self.clusters]
        return bootstrap(grouped, fmean, confidence=confidence, resamples=self.resamples)


def compare(
    evidence: Evidence, arms: Sequence[Arm], metrics: Sequence[str], primary: str, confidence: float = 0.95
) -> tuple[Comparison, ...]:
    """Every challenger against the first arm, and every candidate against every control, on every metric.

    Holm's correction runs over what is read together: the primary metric over the challengers, which is where the
    verdict lies, and apart from it all the others, which only colour it.
    """
    pairs = [(arms[0].name, arm.name) for arm in arms[1:]]
    controls, candidates = ([arm.name for arm in arms[1:] if arm.is_control is kind] for kind in (True, False))
    pairs += [(control, candidate) for control in controls for candidate in candidates]
    wanted = [(metric, *pair) for metric in metrics for pair in pairs]
    found = {one: evidence.difference(one[1], one[2], one[0], confidence) for one in wanted}
    adjusted: dict[ComparisonKey, float] = {}
    for is_primary in (True, False):
        family = [one for one in wanted if (one[0] == primary) is is_primary]
        adjusted |= dict(zip(family, holm([found[one].p for one in family]), strict=True))
    return tuple(_comparison(found[one], one, adjusted[one], confidence, len(evidence.outcomes)) for one in wanted)


def _comparison(
    found: Difference, pairing: ComparisonKey, adjusted: float, confidence: float, items: int
) -> Comparison:
    verdict = decide_verdict(found.interval, adjusted, confidence)
    is_open = verdict == "inconclusive"
    return Comparison(
        metric=pairing[0],
        baseline=pairing[1],
        challenger=pairing[2],
        items=items,
        difference=found.interval.value,
        low=_finite(found.interval.low),
        high=_finite(found.interval.high),
        confidence=confidence,
        p_value=found.p,
        p_value_adjusted=adjusted,
        method=found.method,
        only_baseline=found.only_baseline,
        only_challenger=found.only_challenger,
        verdict=verdict,
        additional_items=max(0, found.items_needed - items) if is_open and found.items_needed else None,
    )


def decide_verdict(interval: Interval, p: float, confidence: float) -> Verdict:
    """Win or loss only where the corrected test and the interval both say so."""
    if p > 1 - confidence + 1e-12 or not interval.excludes_zero:
        return "inconclusive"
    return "win" if interval.value > 0 else "loss"


def _binary_difference(before: Sequence[float], after: Sequence[float], confidence: float) -> Difference:
    """Right and wrong, counted: exact McNemar with Newcombe's interval."""
    pairs = list(zip(before, after, strict=True))
    both, first, second, neither = (pairs.count(kind) for kind in ((1, 1), (1, 0), (0, 1), (0, 0)))
    interval = paired_rate_difference(both, first, second, neither, confidence)
    differing = (first + second + 1) / (len(pairs) + 2)
    gain = max(MIN_EFFECT, abs(interval.value)) if pairs else MIN_EFFECT
    needed = binary_items_needed(differing, gain, alpha=1 - confidence)
    return Difference(interval, mcnemar(first, second), "exact McNemar", first, second, needed)


def _macro_f1_difference(pairs: list[tuple[Labels, Labels]]) -> float:
    return macro_f1([after for _, after in pairs]) - macro_f1([before for before, _ in pairs])


def _cluster_indices(outcomes: Sequence[Outcome]) -> list[list[int]]:
    """Indexes that belong together; an item without a cluster is a group of its own."""
    groups: dict[str, list[int]] = {}
    for index, outcome in enumerate(outcomes):
        groups.setdefault(f"cluster {outcome.item.cluster}" if outcome.item.cluster else f"item {index}", []).append(
            index
        )
    return list(groups.values())


def _score(metric: str, interval: Interval, items: int, method: str) -> Score:
    low, high = max(0.0, interval.low), min(1.0, interval.high)
    return Score(metric=metric, value=interval.value, low=low, high=high, items=items, method=method)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
