"""Compare scored arms: intervals of each score, differences from the baseline, and verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ftpipe.evaluation.metrics import MACRO_F1, Metric
from ftpipe.evaluation.metrics.text import macro_f1
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
from ftpipe.grading.answer_agreement import normalize
from ftpipe.records.evaluation import Arm, Comparison, Outcome, Score, Verdict

MIN_EFFECT = 0.02
"""Smallest difference for which needed items are estimated; smaller ones need unrealistically large test sets."""

EQUIVALENCE_MARGIN = 0.02
"""Two arms are about equal only if the whole interval of their difference lies within this margin on both sides."""

LABEL_RESAMPLES = 1000
"""Resamples for macro-F1, where each one is a pass over all items."""

Labels = tuple[str, str]
"""Expected and answered label."""
ComparisonKey = tuple[str, str, str]
"""Metric, baseline, challenger."""


@dataclass(frozen=True)
class Difference:
    """A challenger minus the baseline on one metric."""

    interval: Interval
    p: float
    method: str
    only_baseline: int | None = None
    only_challenger: int | None = None
    items_needed: int = 0
    """Items for 80% power at this difference; 0 if not estimated."""


class Evidence:
    """Scored items, from which scores and differences are estimated; paired by item and grouped by cluster.

    Args:
        outcomes: Items with every arm's scores.
        metrics: The metrics that score item by item.
    """

    def __init__(self, outcomes: Sequence[Outcome], metrics: Sequence[Metric]) -> None:
        self.outcomes = list(outcomes)
        self.is_binary = {metric.name: metric.kind == "binary" for metric in metrics}
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
        base_scores, new_scores = self._values(baseline, metric), self._values(challenger, metric)
        if self._is_binary_metric(metric, base_scores + new_scores):
            return _binary_difference(base_scores, new_scores, confidence)
        differences = [new - base for base, new in zip(base_scores, new_scores, strict=True)]
        interval = self._mean(differences, confidence)
        sums = [math.fsum(differences[index] for index in group) for group in self.clusters]
        effect = max(MIN_EFFECT, abs(interval.value))
        needed = score_items_needed(differences, effect, alpha=1 - confidence)
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
        return normalize(outcome.item.expected), normalize(outcome.answers[arm][0].text)

    def _is_binary_metric(self, metric: str, values: Sequence[float]) -> bool:
        """Whether every value is 0 or 1, and no two items share a cluster."""
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
    """Compare every challenger with the first arm, and every candidate with every control, on every metric.

    Holm's correction is applied to the comparisons that are read together: those on the primary metric, which decide,
    and separately all others.
    """
    pairs = [(arms[0].name, arm.name) for arm in arms[1:]]
    controls, candidates = ([arm.name for arm in arms[1:] if arm.is_control is kind] for kind in (True, False))
    pairs += [(control, candidate) for control in controls for candidate in candidates]
    keys: list[ComparisonKey] = [(metric, *pair) for metric in metrics for pair in pairs]
    differences = {key: evidence.difference(key[1], key[2], key[0], confidence) for key in keys}
    adjusted: dict[ComparisonKey, float] = {}
    for is_primary in (True, False):
        family = [key for key in keys if (key[0] == primary) is is_primary]
        adjusted |= dict(zip(family, holm([differences[key].p for key in family]), strict=True))
    items, independent = len(evidence.outcomes), len(evidence.clusters)
    return tuple(_comparison(key, differences[key], adjusted[key], confidence, items, independent) for key in keys)


def _comparison(
    key: ComparisonKey, difference: Difference, adjusted: float, confidence: float, items: int, independent: int
) -> Comparison:
    metric, baseline, challenger = key
    verdict = decide_verdict(difference.interval, adjusted, confidence, independent)
    needed = difference.items_needed if verdict == "inconclusive" else 0
    return Comparison(
        metric=metric,
        baseline=baseline,
        challenger=challenger,
        items=items,
        difference=difference.interval.value,
        low=_finite(difference.interval.low),
        high=_finite(difference.interval.high),
        confidence=confidence,
        p_value=difference.p,
        p_value_adjusted=adjusted,
        method=difference.method,
        only_baseline=difference.only_baseline,
        only_challenger=difference.only_challenger,
        verdict=verdict,
        additional_items=max(0, needed - items) if needed else None,
    )


def decide_verdict(interval: Interval, p: float, confidence: float, independent: int) -> Verdict:
    """Win or loss only if the corrected test and the interval agree; equivalent only if the interval supports it.

    Args:
        interval: Of the difference.
        p: After the correction for several comparisons.
        confidence: Of the interval.
        independent: Independent items, or clusters of items.
    """
    if p <= 1 - confidence + 1e-12 and interval.excludes_zero:
        return "win" if interval.value > 0 else "loss"
    is_within = interval.low >= -EQUIVALENCE_MARGIN and interval.high <= EQUIVALENCE_MARGIN
    return "equivalent" if is_within and independent >= items_for_equivalence(confidence) else "inconclusive"


def items_for_equivalence(confidence: float) -> int:
    """Items without which the share of items that differ could exceed the margin although none of those seen does.

    A bootstrap of few items that happen not to differ has an interval of width zero. Source: rule of three, Hanley and
    Lippman-Hand, JAMA 249 (1983), 1743-1745.
    """
    return math.ceil(math.log(1 - confidence) / math.log(1 - EQUIVALENCE_MARGIN))


def _binary_difference(base_scores: Sequence[float], new_scores: Sequence[float], confidence: float) -> Difference:
    """Exact McNemar test with Newcombe's interval."""
    pairs = list(zip(base_scores, new_scores, strict=True))
    both, first, second, neither = (pairs.count(kind) for kind in ((1, 1), (1, 0), (0, 1), (0, 0)))
    interval = paired_rate_difference(both, first, second, neither, confidence)
    discordant = (first + second + 1) / (len(pairs) + 2)
    effect = max(MIN_EFFECT, abs(interval.value)) if pairs else MIN_EFFECT
    needed = binary_items_needed(discordant, effect, alpha=1 - confidence)
    # The exact test needs this many items that differ, all in one direction, to be significant at all.
    needed = max(needed, math.ceil(math.log2(2 / (1 - confidence)) / discordant))
    return Difference(interval, mcnemar(first, second), "exact McNemar", first, second, needed)


def _macro_f1_difference(pairs: list[tuple[Labels, Labels]]) -> float:
    return macro_f1([new for _, new in pairs]) - macro_f1([base for base, _ in pairs])


def _cluster_indices(outcomes: Sequence[Outcome]) -> list[list[int]]:
    """The indices of each cluster's items; an item without a cluster is a cluster by itself."""
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
