"""Estimates the cost of a training job: billable tokens × epochs × price, a range if the service chooses the epochs."""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

from ftpipe.auto_epochs import auto_epochs
from ftpipe.catalog.training_prices import STALE_DAYS, PriceRow
from ftpipe.records import CostEstimate, Method, TokenStats

AUTO_RULE = (
    "the service chooses the epochs, usually 3 (more below 34 examples, fewer above 8,333; OpenAI cookbook, "
    "Chat_finetuning_data_prep). The range is ftpipe's estimate: other values were observed too"
)


class EpochRange(NamedTuple):
    """Minimum, expected and maximum number of epochs."""

    low: int
    expected: int
    high: int
    rule: str


def epochs_range(examples: int, requested: int | None) -> EpochRange:
    """The epochs of a job; exact if they are requested."""
    if requested is not None:
        return EpochRange(requested, requested, requested, "requested")
    expected = auto_epochs(examples)
    return EpochRange(max(1, (expected + 1) // 2), expected, min(50, expected + max(1, expected // 4)), AUTO_RULE)


def estimate(
    tokens: TokenStats, *, method: Method, model: str, span: EpochRange, row: PriceRow | None, today: dt.date
) -> CostEstimate:
    """The cost of one job; tokens beyond the limit of an example are cut and not billed, validation tokens neither.

    Source: OpenAI fine-tuning guide of January 2025 (worked case: 100,000 tokens, 3 epochs, gpt-4o-mini: 0.90 USD).
    """
    warning = price_warning(model, method, row, today)
    by_token = None if _is_billed_by_hour(method, row) else row
    per_epoch = tokens.billable

    def money(epochs: int) -> float | None:
        if by_token is None:
            return None
        return max(by_token.minimum, round(per_epoch * epochs * by_token.price_for(method) / 1_000_000, 6))

    return CostEstimate(
        model=model,
        currency=row.currency if row else "USD",
        epochs=span.expected,
        epochs_low=span.low,
        epochs_high=span.high,
        epochs_rule=span.rule,
        tokens_per_epoch=per_epoch,
        low=money(span.low),
        expected=money(span.expected),
        high=money(span.high),
        price_per_million=by_token.price_for(method) if by_token else None,
        price_as_of=row.as_of.isoformat() if row and row.as_of else None,
        source=row.source if row else "no price row",
        warning=warning or _minimum_note(row, money(span.expected)),
        is_lower_bound=tokens.lower_bound_examples > 0,
    )


def _is_billed_by_hour(method: Method, row: PriceRow | None) -> bool:
    """Whether the time of a job is paid, unless its training is free."""
    return method is Method.REINFORCEMENT and (row is None or row.training > 0)


def _minimum_note(row: PriceRow | None, expected: float | None) -> str:
    """Says that the estimate is the minimum charge; empty otherwise."""
    if row is None or not row.minimum or expected != row.minimum:
        return ""
    return f"It is the host's minimum charge for a job ({row.source}, {row.as_of})."


def price_warning(model: str, method: Method, row: PriceRow | None, today: dt.date) -> str:
    """Says that a price is unknown, or that one of the user's configuration is old; empty otherwise.

    The age of other prices is told by ``ftpipe doctor``, once, and each estimate shows the date.
    """
    if _is_billed_by_hour(method, row):
        return "Reinforcement training is billed by the hour; it cannot be estimated from tokens."
    if row is None:
        return f"No training price is known for {model or 'this model'}."
    if not row.is_configured:
        return ""
    age = row.age_days(today)
    if age is not None and age > STALE_DAYS:
        return f"The price of {row.model} is {age} days old ({row.as_of}, {row.source})."
    if age is None and row.training:
        return f"The price of {row.model} has no date ({row.source})."
    return ""
