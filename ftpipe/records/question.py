"""What an evaluation asks: items with wanted answers, arms with prices, the sampler, and what came back."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field

from ftpipe.records.record import Record


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


class Sampler(Record):
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
    reused: bool = False
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
    sampler: Sampler = Sampler()
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
