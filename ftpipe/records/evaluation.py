"""The records of an evaluation: items, arms, answers, scores, comparisons and the verdict.

``Item × Arm → Answer → Outcome → Comparison → Evaluation``. Scores are shares between 0 and 1, differences are
``challenger - baseline``, latencies are seconds, prices are per million tokens in the row's own currency.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from ftpipe.records.base import Record


class Task(StrEnum):
    """What the answers are, and so what a right one means."""

    LABEL = "label"
    """One of a few short labels."""
    JSON = "json"
    """A JSON document."""
    TOOLS = "tools"
    """Tool calls, or rightly none."""
    TEXT = "text"
    """Anything else."""


class TokenPrice(Record):
    """One row of a price table, as it was read."""

    model: str
    input: float
    """Per million prompt tokens."""
    output: float
    """Per million completion tokens."""
    cached: float | None = None
    """Per million prompt tokens that the endpoint had cached; ``None`` where it caches nothing."""
    training: float | None = None
    """Per million trained tokens and epoch; ``None`` where the model is not trained there."""
    currency: str = "USD"
    as_of: str = ""
    """Day on which the row was read, ISO 8601."""
    source: str = ""
    """Where it was read."""


class ToolCall(Record):
    """One call of a tool that a model asked for."""

    name: str
    arguments: str = "{}"
    """JSON text, as the model wrote it."""


class Item(Record):
    """One question with the answer that is wanted."""

    id: str
    """First 16 characters of the SHA-256 of the record, so that it survives reordering."""
    line: int
    """1-based line in the file."""
    messages: tuple[dict[str, Any], ...]
    """What is asked: everything before the last assistant message."""
    tools: tuple[dict[str, Any], ...] = ()
    expected: str = ""
    """Text of the last assistant message."""
    expected_calls: tuple[ToolCall, ...] = ()
    fields: dict[str, Any] = Field(default_factory=dict)
    """The record's other keys, which graders may name."""
    cluster: str = ""
    """Items of one cluster (a document, a dialogue) are resampled together; empty for an item on its own."""


class Arm(Record):
    """One side of the comparison: a model, and the system prompt it is asked with."""

    name: str
    model: str
    system: str | None = None
    """Replaces the items' own system message; ``None`` leaves them as they are."""
    price: TokenPrice | None = None
    is_control: bool = False
    """A second baseline (the base with a better prompt): candidates are compared with it too, gates pass it over."""

    def messages_for(self, item: Item) -> list[dict[str, Any]]:
        """The messages that are sent for an item, with the arm's system prompt if it has one."""
        messages = [dict(message) for message in item.messages]
        if self.system is None:
            return messages
        rest = [message for message in messages if message.get("role") not in ("system", "developer")]
        return [{"role": "system", "content": self.system}, *rest]


class SamplingParams(Record):
    """How every arm is asked; one for all of them, or the comparison is not one."""

    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=512, ge=1)
    seed: int | None = 0
    samples: int = Field(default=1, ge=1, le=100)
    """Answers per item and arm; averaged before the arms are paired."""


class Answer(Record):
    """What a model said to one item."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_s: float = 0.0
    """Seconds from request to whole answer, without waiting for the rate limit."""
    error: str = ""
    """Why the endpoint refused this item; such an answer scores 0."""
    from_cache: bool = False
    """True where an earlier evaluation had asked already."""


class ItemSet(Record):
    """Items with the name and digest of the file that they come from."""

    name: str
    sha256: str
    items: tuple[Item, ...]


class EvaluationSpec(Record):
    """What an evaluation was asked to do."""

    arms: tuple[Arm, ...]
    """The first is the baseline; every arm gets every item."""
    sampling: SamplingParams = SamplingParams()
    task: Task | None = None
    """``None`` is found out from the wanted answers."""
    metrics: tuple[str, ...] = ()
    """Instead of the task's own; the verdict is about the first."""
    answer_schema: dict[str, Any] | None = None
    """JSON schema that answers are checked against."""
    grader: dict[str, Any] | None = None
    """A grader in OpenAI's JSON; its score is the metric ``grader``, and the verdict's unless others are named."""
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    judge_model: str | None = None
    """Model that compares answers in pairs, in both orders."""
    gates: tuple[str, ...] = ()
    """Conditions such as ``exact>=+0.03@95%``."""
    max_regressions: int | None = Field(default=None, ge=0)


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
    "SamplingParams",
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
    rejected: int = 0
    """Requests that the endpoint refused for the item's sake."""
    cached: int = 0
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


Verdict = Literal["win", "loss", "inconclusive"]


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
    p_value: float
    p_value_adjusted: float
    """After Holm's correction over the comparisons that are read together."""
    method: str
    """``exact McNemar``, ``paired bootstrap``, …"""
    only_baseline: int | None = None
    """Items that only the baseline had right; ``None`` for a metric that is not right or wrong."""
    only_challenger: int | None = None
    verdict: Verdict
    additional_items: int | None = None
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
    p_value: float
    verdict: Verdict


class GateResult(Record):
    """One condition of a gate, checked."""

    expression: str
    passed: bool
    explanation: str


class Evaluation(Record):
    """The whole answer: who was better at what, and how sure that is."""

    id: str
    """``eval-<12 characters>``: the same items, arms and sampling parameters have the same one."""
    created_at: int
    data: str
    """File name of the items."""
    data_sha256: str
    task: Task
    task_reason: str = ""
    """Why it is taken to be this one."""
    primary_metric: str
    """The metric that the verdict is about."""
    confidence: float
    sampling: SamplingParams
    concurrency: int | None = None
    """Requests under way at once, at most; latencies have what an endpoint lets them wait for each other."""
    arms: tuple[ArmResult, ...]
    """The first is the baseline."""
    comparisons: tuple[Comparison, ...]
    judgments: tuple[JudgeResult, ...] = ()
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

    def primary_comparison(self, challenger: str, baseline: str | None = None) -> Comparison:
        """The comparison on the primary metric, with the baseline or with a control."""
        wanted = (self.primary_metric, challenger, baseline or self.baseline)
        return next(one for one in self.comparisons if (one.metric, one.challenger, one.baseline) == wanted)

    def control_comparisons(self, challenger: str) -> list[Comparison]:
        """A candidate's comparisons with the controls, on the primary metric."""
        headlines = [
            one for one in self.comparisons if (one.metric, one.challenger) == (self.primary_metric, challenger)
        ]
        return [one for one in headlines if one.baseline != self.baseline]

    def item_score(self, outcome: Outcome, arm: str) -> float:
        """One item's score on the primary metric, or on the first one where the primary is taken over all items."""
        scores = outcome.scores[arm]
        return scores.get(self.primary_metric, next(iter(scores.values()), 0.0))

    def changed_items(self, challenger: str) -> tuple[list[Outcome], list[Outcome]]:
        """Items that got worse and that got better against the baseline, on the primary metric."""
        worse, better = [], []
        for outcome in self.outcomes:
            change = self.item_score(outcome, challenger) - self.item_score(outcome, self.baseline)
            if change < -REGRESSION_THRESHOLD:
                worse.append(outcome)
            elif change > REGRESSION_THRESHOLD:
                better.append(outcome)
        return worse, better
