"""The records of an evaluation: items, arms, answers, scores, comparisons and the verdict.

``Item × Arm → Answer → Outcome → Comparison → Evaluation``. Scores are shares between 0 and 1, differences are
``challenger - baseline``, latencies are seconds, prices are per million tokens in the row's own currency.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from ftpipe.records.base import Record


class Task(StrEnum):
    """The kind of answers, which decides what a correct one is."""

    LABEL = "label"
    """One of a few short labels."""
    JSON = "json"
    """A JSON document."""
    TOOLS = "tools"
    """Tool calls, or correctly none."""
    TEXT = "text"
    """Anything else."""


class TokenPrice(Record):
    """One row of a price table."""

    model: str
    input: float
    """Per million prompt tokens."""
    output: float
    """Per million completion tokens."""
    cached: float | None = None
    """Per million prompt tokens that the endpoint had cached; ``None`` if it caches nothing."""
    training: float | None = None
    """Per million trained tokens and epoch; ``None`` if the model cannot be trained there."""
    currency: str = "USD"
    as_of: str = ""
    """Day on which the row was read, ISO 8601."""
    source: str = ""
    """Where the price was read."""

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What tokens cost; none of them are taken for cached."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1_000_000


class ToolCall(Record):
    """One tool call of a model."""

    name: str
    arguments: str = "{}"
    """JSON text, as the model wrote it."""


class TokenLogprob(Record):
    """A token of an answer, and how probable the model found it."""

    token: str
    logprob: float = Field(allow_inf_nan=False)
    """Natural logarithm of the probability."""
    alternatives: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)
    """The most probable tokens at this position, each with its logarithm; empty if they were not requested."""


class Item(Record):
    """One prompt with its expected answer."""

    id: str
    """First 16 characters of the record's SHA-256, so that it does not depend on the order of lines."""
    line: int
    """1-based line in the file."""
    messages: tuple[dict[str, Any], ...]
    """The prompt: everything before the last assistant message."""
    tools: tuple[dict[str, Any], ...] = ()
    expected: str = ""
    """Text of the last assistant message."""
    expected_calls: tuple[ToolCall, ...] = ()
    fields: dict[str, Any] = Field(default_factory=dict)
    """The record's other keys, for graders."""
    cluster: str = ""
    """Items of one cluster (a document, a dialogue) are resampled together; empty without a cluster."""


class Arm(Record):
    """One side of the comparison: a model with a system prompt."""

    name: str
    model: str
    system: str | None = None
    """Replaces the items' system message; ``None`` keeps it."""
    price: TokenPrice | None = None
    is_control: bool = False
    """A second baseline (the base with a better prompt): candidates are also compared with it; gates ignore it."""

    def messages_for(self, item: Item) -> list[dict[str, Any]]:
        """The messages that are sent for an item, with the arm's system prompt if it has one."""
        messages = [dict(message) for message in item.messages]
        if self.system is None:
            return messages
        rest = [message for message in messages if message.get("role") not in ("system", "developer")]
        return [{"role": "system", "content": self.system}, *rest]


class SamplingParams(Record):
    """Sampling parameters, the same for every arm."""

    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=512, ge=1)
    seed: int | None = 0
    samples: int = Field(default=1, ge=1, le=100)
    """Answers per item and arm; their scores are averaged before arms are compared."""


class Answer(Record):
    """A model's answer to one item."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = ""
    """``stop``, ``length``, ``tool_calls``, …; empty if it is not known."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """``None`` if they were not requested, or the endpoint has none."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_s: float = 0.0
    """Seconds from the request to the complete answer, without waiting for the rate limit."""
    error: str = ""
    """Why the endpoint rejected this item; such an answer scores 0."""
    from_cache: bool = False
    """Whether the answer is from an earlier evaluation."""


class ItemSet(Record):
    """Items with the name and digest of their file."""

    name: str
    sha256: str
    items: tuple[Item, ...]


class EvaluationSpec(Record):
    """The parameters of an evaluation."""

    arms: tuple[Arm, ...]
    """The first is the baseline; every arm gets every item."""
    sampling: SamplingParams = SamplingParams()
    task: Task | None = None
    """``None`` detects it from the expected answers."""
    metrics: tuple[str, ...] = ()
    """Replace the task's metrics; the first one decides the verdict."""
    answer_schema: dict[str, Any] | None = None
    """JSON schema that answers are validated against."""
    grader: dict[str, Any] | None = None
    """A grader in OpenAI's JSON format: the metric ``grader``, which is primary unless ``metrics`` is set."""
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
    "TokenLogprob",
    "TokenPrice",
    "ToolCall",
    "TrainingOverlap",
    "Usage",
    "Verdict",
]

REGRESSION_THRESHOLD = 0.1
"""An item regressed or improved if its score changed by more than this."""


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
    """Method of the interval: ``wilson`` or ``bootstrap``."""


class Usage(Record):
    """The requests, tokens, latency and cost of one arm."""

    requests: int
    rejected: int = 0
    """Requests that the endpoint rejected because of the item."""
    cached: int = 0
    """Answers from earlier evaluations."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    cost_per_request: float | None = None
    """``None``, like ``cost``, if no price is known."""
    cost: float | None = None
    currency: str = "USD"


class ArmResult(Record):
    """The results of one arm."""

    arm: Arm
    scores: tuple[Score, ...]
    usage: Usage
    confusion: dict[str, dict[str, int]] = Field(default_factory=dict)
    """Expected label → answered label → items; answers that are not an expected label are ``(other)``."""
    fields: dict[str, float] = Field(default_factory=dict)
    """Top-level JSON field → share of items where it is correct."""

    def score(self, metric: str) -> Score:
        """The score on a metric."""
        return next(score for score in self.scores if score.metric == metric)


Verdict = Literal["win", "loss", "equivalent", "inconclusive"]
"""Better, worse, about equal (the interval lies within two points of zero), or not enough evidence for any of these."""


class Comparison(Record):
    """A challenger against the baseline on one metric."""

    metric: str
    baseline: str
    challenger: str
    items: int
    difference: float
    low: float | None
    """``None``, like ``high``, if there are too few items for an interval."""
    high: float | None
    confidence: float
    p_value: float
    p_value_adjusted: float
    """After Holm's correction."""
    method: str
    """``exact McNemar``, ``paired bootstrap``, …"""
    only_baseline: int | None = None
    """Items that only the baseline answered correctly; ``None`` if the metric is not binary."""
    only_challenger: int | None = None
    verdict: Verdict
    additional_items: int | None = None
    """Additional items for 80% power at the observed difference (at least 2 points); ``None`` unless inconclusive."""


class JudgeResult(Record):
    """A judge model's preferences between pairs of answers, each compared in both orders."""

    model: str
    baseline: str
    challenger: str
    wins: int
    losses: int
    ties: int
    """Includes pairs whose winner changed with the order."""
    flip_rate: float
    """Share of pairs of different answers whose winner changed with the order: how unreliable the judge is."""
    p_value: float
    verdict: Verdict


class GateResult(Record):
    """One condition of a gate, checked."""

    expression: str
    passed: bool
    explanation: str


class TrainingOverlap(Record):
    """Items that an arm's model was trained on."""

    arm: str
    items: int | None
    """Items whose prompt is in the training file; ``None`` if that file is gone or was changed."""
    total: int


class Evaluation(Record):
    """The result of an evaluation: scores, comparisons, verdicts and gates."""

    id: str
    """``eval-<12 characters>``: the same items, arms and sampling parameters have the same one."""
    created_at: int
    data: str
    """File name of the items."""
    data_sha256: str
    task: Task
    task_reason: str = ""
    """Why this task was chosen."""
    primary_metric: str
    """The metric that decides the verdict."""
    confidence: float
    sampling: SamplingParams
    concurrency: int | None = None
    """Maximum number of concurrent requests; latencies include the time that requests wait for each other."""
    arms: tuple[ArmResult, ...]
    """The first is the baseline."""
    comparisons: tuple[Comparison, ...]
    judgments: tuple[JudgeResult, ...] = ()
    outcomes: tuple[Outcome, ...]
    gates: tuple[GateResult, ...] = ()
    training_overlaps: tuple[TrainingOverlap, ...] = ()
    """For each arm whose model is registered, unless none of the items is in its training data."""

    @property
    def baseline(self) -> str:
        """Name of the arm that others are compared with."""
        return self.arms[0].arm.name

    @property
    def challengers(self) -> tuple[str, ...]:
        """Names of the other arms."""
        return tuple(result.arm.name for result in self.arms[1:])

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the challengers that are not controls."""
        return tuple(result.arm.name for result in self.arms[1:] if not result.arm.is_control)

    def primary_comparison(self, challenger: str, baseline: str | None = None) -> Comparison:
        """The comparison on the primary metric, with the baseline or with a control."""
        key = (self.primary_metric, challenger, baseline or self.baseline)
        return next(one for one in self.comparisons if (one.metric, one.challenger, one.baseline) == key)

    def control_comparisons(self, challenger: str) -> list[Comparison]:
        """A candidate's comparisons with the controls, on the primary metric."""
        headlines = [
            one for one in self.comparisons if (one.metric, one.challenger) == (self.primary_metric, challenger)
        ]
        return [one for one in headlines if one.baseline != self.baseline]

    def overlaps_of(self, comparison: Comparison) -> list[TrainingOverlap]:
        """The training overlaps of the two arms that are compared."""
        return [one for one in self.training_overlaps if one.arm in (comparison.challenger, comparison.baseline)]

    def item_score(self, outcome: Outcome, arm: str) -> float:
        """One item's score on the primary metric, or on the first one if the primary is computed over all items."""
        scores = outcome.scores[arm]
        return scores.get(self.primary_metric, next(iter(scores.values()), 0.0))

    def changed_items(self, challenger: str) -> tuple[list[Outcome], list[Outcome]]:
        """Items that regressed and items that improved against the baseline, on the primary metric."""
        regressed, improved = [], []
        for outcome in self.outcomes:
            change = self.item_score(outcome, challenger) - self.item_score(outcome, self.baseline)
            if change < -REGRESSION_THRESHOLD:
                regressed.append(outcome)
            elif change > REGRESSION_THRESHOLD:
                improved.append(outcome)
        return regressed, improved
