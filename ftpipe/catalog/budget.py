"""Compares what a job would cost with what the user allows; scan workers load it, so it does not load pydantic."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ftpipe.records import CostEstimate


class CostQuote(NamedTuple):
    """What a job would cost and how much it may cost; rules about money read it."""

    cost: CostEstimate
    billed_by_hour: bool
    """As in reinforcement; the cost cannot be estimated from tokens."""
    max_cost: float | None
    """The user's limit in the currency of the estimate; ``None`` for no limit."""


def budget_violation(cost: CostEstimate | None, max_cost: float | None) -> tuple[str, str] | None:
    """Message and hint if a job may cost more than the user allows or its price is unknown; ``None`` otherwise."""
    if max_cost is None or cost is None:
        return None
    if cost.high is None:
        return (
            f"no training price is known for {cost.model}, so --max-cost cannot be checked",
            f'add it to ftpipe.toml: [prices."{cost.model}"] training_per_million = …',
        )
    if cost.high <= max_cost:
        return None
    return (
        f"the job may cost up to {cost.high:.2f} {cost.currency}, over the limit of {max_cost:.2f}",
        f"train on fewer than {cost.epochs_high} epochs, choose a smaller model, or raise --max-cost",
    )
