"""The record of a shadow comparison: what two models answered to the same chats, and what can be said about them."""

from __future__ import annotations

from typing import Literal

from ftpipe.records.base import Record

ShadowVerdict = Literal["undecided", "no_difference", "higher", "lower"]
ShadowMeasure = Literal["score", "extra_disagreement", "disagreement"]


class Estimate(Record):
    """A value with an interval that holds however often it is looked at."""

    low: float
    value: float | None
    """``None`` without outcomes."""
    high: float
    outcomes: int


class Percentiles(Record):
    """Latencies in seconds; ``None`` without answers."""

    p50: float | None
    p95: float | None


class ShadowStatus(Record):
    """The comparison of one owner's chats with one pair of models.

    A verdict is about ``measure``: ``higher`` and ``lower`` say whether it is above or below what equal models have.
    """

    owner: str
    old: str
    new: str
    share: float
    started_at: int
    updated_at: int
    chats: int
    """Answered chats with the old model."""
    mirrored: int
    """Chats that the new model answered or failed to answer."""
    failed: int
    """Of these, without an answer."""
    interrupted: int
    """Chats whose answer was not stored because the server stopped, or that are being answered."""
    dropped: int
    """Chats of the share that were not mirrored because the server was busy or stopping."""
    unpaid: int
    """Chats of the share that were not mirrored because of the limit for costs."""
    different_chats: int
    """Mirrored chats that are not repetitions of others."""
    errors: dict[str, int]
    """Why there was no answer → how often."""

    measure: ShadowMeasure
    """``score`` (of a grader, new minus old); ``extra_disagreement`` (how much more often the new model's answers
    differ than the old one's second answers do); ``disagreement`` (how often they differ)."""
    margin: float
    """Largest difference that does not matter."""
    verdict: ShadowVerdict
    more_requests: int | None
    """Mirrored chats that a verdict probably still takes; ``None`` if that cannot be said."""
    agreement: Estimate
    repeat_agreement: Estimate | None
    """How often the old model agrees with itself, if it was asked twice."""
    difference: Estimate | None
    """Mean of the measure; ``None`` for ``disagreement``, where it is 1 minus the agreement."""
    old_score: float | None
    new_score: float | None

    old_latency: Percentiles
    """Of the second answers, if the old model was asked twice: these wait for callers, as the new model's do."""
    new_latency: Percentiles
    latency_ratio: Estimate
    """Geometric mean of new to old."""
    old_tokens: float | None
    """Completion tokens of an answer, on average; ``None`` if they are not known."""
    new_tokens: float | None
    new_cost: float
    """Of all answers; what may have been paid counts."""
    old_cost: float | None
    """Of the callers' answers to the mirrored chats, at OpenAI's price; ``None`` for a model without such a price."""
