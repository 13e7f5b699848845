"""The records of an evaluation: items, arms, answers, scores, comparisons and the verdict.

``Item × Arm → Answer → Outcome → Comparison → Evaluation``. Scores are shares between 0 and 1, differences are
``challenger - baseline``, latencies are seconds, prices are per million tokens in the row's own currency.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ftpipe.records.question import (
    Answer,
    Arm,
    EvaluationSpec,
    Item,
    ItemSet,
    Sampler,
    Task,
    TokenPrice,
    ToolCall,
)
from ftpipe.records.record import Record

__all__ = [
    "REGRESSION_THRESHOLD",
    "Answer",
    "Arm",
    "ArmResult",
    "Comparison",
    "Evaluation",
    "EvaluationSpec",
    "GateResult",
    "Item",
    "ItemSet",
    "JudgeResult",
    "Outcome",
    "Sampler",
    "Score",
    "Task",
    "TokenPrice",
    "ToolCall",
    "Usage",
    "Verdict",
]

REGRESSION_THRESHOLD = 0.1
"""A score has to change by more than this to count as a regression or an improvement."""


class Outcome(Record):
    """One item with every arm's answers and scores."""

    item: Item
    answers: dict[str, tuple[Answer, ...]]
    """Arm name → one answer per sample."""
    scores: dict[str, dict[str, float]]
    """Arm name → metric → score, averaged over the samples."""


class Score(Record):
    """One arm on one metric."""

    metric: str
    value: float
    low: float
    high: float
    items: int
    method: str
    """How the interval was made: ``wilson`` or ``bootstrap``."""


class Usage(Record):
    """What one arm took."""

    requests: int
    refused: int = 0
    """Requests that the endpoint refused for the item's sake."""
    reused: int = 0
    """Answers that an earlier, stopped evaluation already had."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    cost_per_request: float | None = None
    """``None``, as ``cost``, where no price is known."""
    cost: float | None = None
    currency: str = "USD"


class ArmResult(Record):
    """Everything that is known about one arm."""

    arm: Arm
    scores: tuple[Score, ...]
    usage: Usage
    confusion: dict[str, dict[str, int]] = Field(default_factory=dict)
    """Wanted label → answered label → items; answers that are no wanted label are ``(other)``."""
    fields: dict[str, float] = Field(default_factory=dict)
    """Top-level JSON field → share of items that had it right."""

    def score(self, metric: str) -> Score:
        """The score on one of the metrics that were taken."""
        return next(score for score in self.scores if score.metric == metric)


Verdict = Literal["win", "loss", "not enough evidence"]


class Comparison(Record):
    """A challenger against the baseline on one metric."""

    metric: str
    baseline: str
    challenger: str
    items: int
    difference: float
    low: float | None
    """``None`` together with ``high`` where there are too few items for an interval."""
    high: float | None
    confidence: float
    p: float
    p_adjusted: float
    """After Holm's correction over the comparisons that are read together."""
    method: str
    """``exact McNemar``, ``paired bootstrap``, …"""
    only_baseline: int | None = None
    """Items that only the baseline had right; ``None`` for a metric that is not right or wrong."""
    only_challenger: int | None = None
    verdict: Verdict
    more_items: int | None = None
    """Further items for 80 % power at the difference seen (2 points at least); ``None`` where the verdict stands."""


class JudgeResult(Record):
    """What a judge model said about pairs of answers, each asked in both orders."""

    model: str
    baseline: str
    challenger: str
    wins: int
    losses: int
    ties: int
    """Also the pairs whose winner changed with the order."""
    flip_rate: float
    """Share of pairs whose winner changed with the order: the judge's own unreliability."""
    p: float
    verdict: Verdict


class GateResult(Record):
    """One condition of a gate, checked."""

    expression: str
    passed: bool
    explanation: str


class Evaluation(Record):
    """The whole answer: who was better at what, and how sure that is."""

    id: str
    """``eval-<12 characters>``: the same items, arms and sampler have the same one."""
    created_at: int
    data: str
    """File name of the items."""
    data_sha256: str
    task: Task
    task_reason: str = ""
    """Why it is taken to be this one."""
    primary: str
    """The metric that the verdict is about."""
    confidence: float
    sampler: Sampler
    concurrency: int | None = None
    """Requests under way at once, at most; latencies have what an endpoint lets them wait for each other."""
    arms: tuple[ArmResult, ...]
    """The first is the baseline."""
    comparisons: tuple[Comparison, ...]
    judged: tuple[JudgeResult, ...] = ()
    outcomes: tuple[Outcome, ...]
    gates: tuple[GateResult, ...] = ()

    @property
    def baseline(self) -> str:
        """Name of the arm that the others are compared with."""
        return self.arms[0].arm.name

    @property
    def challengers(self) -> tuple[str, ...]:
        """Names of the other arms."""
        return tuple(result.arm.name for result in self.arms[1:])

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the challengers that are no controls."""
        return tuple(result.arm.name for result in self.arms[1:] if not result.arm.is_control)

    def headline(self, challenger: str, baseline: str | None = None) -> Comparison:
        """The comparison on the primary metric, with the baseline or with a control."""
        wanted = (self.primary, challenger, baseline or self.baseline)
        return next(one for one in self.comparisons if (one.metric, one.challenger, one.baseline) == wanted)

    def controlled(self, challenger: str) -> list[Comparison]:
        """A candidate's comparisons with the controls, on the primary metric."""
        headlines = [one for one in self.comparisons if (one.metric, one.challenger) == (self.primary, challenger)]
        return [one for one in headlines if one.baseline != self.baseline]

    def item_score(self, outcome: Outcome, arm: str) -> float:
        """One item's score on the primary metric, or on the first one where the primary is taken over all items."""
        scores = outcome.scores[arm]
        return scores.get(self.primary, next(iter(scores.values()), 0.0))

    def moved(self, challenger: str) -> tuple[list[Outcome], list[Outcome]]:
        """Items that got worse and that got better against the baseline, on the primary metric."""
        worse, better = [], []
        for outcome in self.outcomes:
            change = self.item_score(outcome, challenger) - self.item_score(outcome, self.baseline)
            if change < -REGRESSION_THRESHOLD:
                worse.append(outcome)
            elif change > REGRESSION_THRESHOLD:
                better.append(outcome)
        return worse, better
