"""When a tuned model has paid for itself: the cost of a call each way, and the calls and days until it is even.

::

    base  = P*p_in (or cached) + u*p_in + o*p_out      P long prompt, u user, o output tokens of one call
    tuned = P'*q_in (or cached) + u*q_in + o*q_out     q the tuned model's prices, P' its short prompt
    C     = T*E*p_train + data + evaluation + people + retraining
    N*    = C / (base - tuned)                         never, where tuned costs as much or more
    a day = (C/H + G) / (base - tuned)                 H days left, G the own machine's cost a day

Money is reckoned in exact fractions of the price rows' decimals, so that a figure does not depend on rounding.
"""

from __future__ import annotations

import math
from datetime import date
from fractions import Fraction
from typing import Literal

from pydantic import Field

from ftpipe.errors import UsageError
from ftpipe.records import Record
from ftpipe.records.evaluation import TokenPrice

MIN_CACHED_PROMPT_TOKENS = 1024
"""Prompt tokens from which OpenAI caches. Source: openai-cookbook, Prompt_Caching_201, read 2026-11-24."""

CACHE_STEP_TOKENS = 128
"""Cached prefixes grow in steps of this many tokens; same source."""


class TypicalCall(Record):
    """One typical call, in tokens."""

    fixed_prompt: int = Field(ge=0)
    """The part that is the same in every call: instructions and examples."""
    tuned_fixed_prompt: int = Field(ge=0)
    """What is left of it once the model is tuned."""
    variable: int = Field(ge=0)
    """The part that differs from call to call."""
    output: int = Field(ge=0)


class Training(Record):
    """What has to be paid once, in the price row's currency."""

    tokens: int = Field(ge=0)
    """Tokens in the training file."""
    epochs: int = Field(ge=1)
    data: float = Field(default=0.0, ge=0)
    evaluation: float = Field(default=0.0, ge=0)
    labor: float = Field(default=0.0, ge=0)
    """Hours of people times their rate; usually the largest part."""
    retrainings: int = Field(default=0, ge=0)
    """How often the training alone is paid again within the horizon."""


class CostFigure(Record):
    """One figure with the rows that it was made from."""

    amount: float
    currency: str
    formula: str
    """How it was reckoned, with the numbers put in."""
    rows: tuple[TokenPrice, ...]
    """Every price row behind it, with day and source."""


class BreakEven(Record):
    """When tuning has paid for itself, with everything that the answer hangs on."""

    base: CostFigure
    """One thousand calls of the base model."""
    tuned: CostFigure
    """One thousand calls of the tuned model."""
    one_time: CostFigure
    """Training, data, evaluation and people."""
    prompt_caching: bool
    """Whether long prompts were taken to be cached."""
    base_cached_tokens: int
    tuned_cached_tokens: int
    calls: int | None
    """Calls until it is even; ``None`` is never."""
    horizon_days: int | None
    """Days until the tuned model stops answering; ``None`` where no end is announced."""
    calls_per_day: int | None
    """Calls a day that make it even within the horizon; ``None`` without a horizon, or for never."""
    days: float | None
    """Days until it is even at the traffic given; ``None`` without traffic, or for never."""
    outcome: Literal["pays", "too late", "never", "depends on traffic"]

    @property
    def saved_per_thousand(self) -> float:
        """What the tuned model saves in a thousand calls; below 0 where it costs more."""
        return self.base.amount - self.tuned.amount


def epoch_cost(tokens: int, price: TokenPrice) -> CostFigure:
    """What one epoch over the training file costs.

    Raises:
        UsageError: The row has no training price.
    """
    per_million = _training_price(price)
    amount = Fraction(tokens) * per_million / 1_000_000
    formula = f"{tokens:,} tokens x {price.training:g} per million"
    return CostFigure(amount=float(amount), currency=price.currency, formula=formula, rows=(price,))


def call_cost(
    prompt: int, user: int, output: int, price: TokenPrice, *, caching: bool, whole_steps: bool = False
) -> tuple[Fraction, int]:
    """What one call costs, exactly, and how many of its tokens are cached.

    Args:
        prompt: Tokens that are the same in every call.
        user: Tokens that differ.
        output: Tokens of the answer.
        price: The row of the model that answers.
        caching: Whether the endpoint has the prompt cached (a steady stream of calls).
        whole_steps: Round the cached part down to whole steps of 128; without it the last, at most 127 tokens are
            taken as cached too, which makes the base look better than it is by a percent or so.
    """
    cached = 0
    if caching and price.cached is not None and prompt >= MIN_CACHED_PROMPT_TOKENS:
        cached = prompt // CACHE_STEP_TOKENS * CACHE_STEP_TOKENS if whole_steps else prompt
    full = prompt + user - cached
    cost = full * _exact(price.input) + cached * _exact(price.cached or 0.0) + output * _exact(price.output)
    return cost / 1_000_000, cached


def break_even(
    call: TypicalCall,
    training: Training,
    *,
    base: TokenPrice,
    tuned: TokenPrice,
    caching: bool = True,
    calls_per_day: float | None = None,
    today: date | None = None,
    shutdown_date: date | None = None,
    hosting_per_day: float = 0.0,
    whole_steps: bool = False,
) -> BreakEven:
    """Reckon when tuning has paid for itself.

    Args:
        call: One typical call.
        training: What is paid once.
        base: Price row of what answers now.
        tuned: Price row of the tuned model, with its training price.
        caching: Whether long prompts are cached; ask for both, the answer often turns on it.
        calls_per_day: Calls a day, where known.
        today: Day from which the horizon counts; needed together with ``shutdown_date``.
        shutdown_date: Day on which the tuned model stops answering.
        hosting_per_day: Own machine's cost a day, for a model served at home.
        whole_steps: See ``call_cost``.

    Raises:
        UsageError: The rows are in different currencies, or have no training price.
    """
    if base.currency != tuned.currency:
        raise UsageError(
            f"Prices in {base.currency} and {tuned.currency} cannot be compared.", "Give both rows in one currency."
        )
    before, base_cached = call_cost(
        call.fixed_prompt, call.variable, call.output, base, caching=caching, whole_steps=whole_steps
    )
    after, tuned_cached = call_cost(
        call.tuned_fixed_prompt, call.variable, call.output, tuned, caching=caching, whole_steps=whole_steps
    )
    once = one_time_cost(training, tuned)
    horizon = max(0, (shutdown_date - today).days) if shutdown_date and today else None
    saved = before - after
    calls, per_day, days = _break_even_point(
        _exact(once.amount), saved, horizon, _exact(hosting_per_day), calls_per_day
    )
    return BreakEven(
        base=_cost_of_1000_calls(call.fixed_prompt, base_cached, call, base, before),
        tuned=_cost_of_1000_calls(call.tuned_fixed_prompt, tuned_cached, call, tuned, after),
        one_time=once,
        prompt_caching=caching,
        base_cached_tokens=base_cached,
        tuned_cached_tokens=tuned_cached,
        calls=calls,
        horizon_days=horizon,
        calls_per_day=per_day,
        days=days,
        outcome=_outcome(calls, calls_per_day, days, horizon),
    )


def one_time_cost(training: Training, price: TokenPrice) -> CostFigure:
    """Everything that is paid once: training (and again for each retraining), data, evaluation, people."""
    runs = 1 + training.retrainings
    train = Fraction(training.tokens) * training.epochs * _training_price(price) * runs / 1_000_000
    others = [("data", training.data), ("evaluation", training.evaluation), ("people", training.labor)]
    amount = train + sum((_exact(value) for _, value in others), Fraction(0))
    repeated = f" x {runs} trainings" if runs > 1 else ""
    formula = f"{training.tokens:,} tokens x {training.epochs} epochs x {price.training:g} per million{repeated}"
    formula += "".join(f" + {value:,.2f} {name}" for name, value in others if value)
    return CostFigure(amount=float(amount), currency=price.currency, formula=formula, rows=(price,))


def _break_even_point(
    once: Fraction, saved: Fraction, horizon: int | None, machine: Fraction, traffic: float | None
) -> tuple[int | None, int | None, float | None]:
    """Calls until even, calls a day within the horizon, days at the traffic given; ``None`` each for never."""
    if saved <= 0:
        return None, None, None
    calls = math.ceil(once / saved)
    per_day = math.ceil((once / horizon + machine) / saved) if horizon else None
    if horizon is None and machine:
        per_day = math.ceil(machine / saved)
    if not traffic:
        return calls, per_day, None
    daily = _exact(traffic) * saved - machine
    return calls, per_day, float(once / daily) if daily > 0 else None


def _outcome(
    calls: int | None, traffic: float | None, days: float | None, horizon: int | None
) -> Literal["pays", "too late", "never", "depends on traffic"]:
    if calls is None:
        return "never"
    if horizon == 0:
        return "too late"
    if not traffic:
        return "depends on traffic"
    if days is None:
        return "never"
    return "too late" if horizon is not None and days > horizon else "pays"


def _cost_of_1000_calls(prompt: int, cached: int, call: TypicalCall, price: TokenPrice, cost: Fraction) -> CostFigure:
    """A thousand calls, with the formula spelled out."""
    full = prompt + call.variable - cached
    parts = [f"{full:,} x {price.input:g}"]
    if cached:
        parts.append(f"{cached:,} cached x {price.cached:g}")
    parts.append(f"{call.output:,} output x {price.output:g}")
    formula = f"1,000 x ({' + '.join(parts)}) / 1,000,000"
    return CostFigure(amount=float(cost * 1000), currency=price.currency, formula=formula, rows=(price,))


def _training_price(price: TokenPrice) -> Fraction:
    if price.training is None:
        raise UsageError(
            f"There is no training price for {price.model}.", "Give one with --train-price, or choose another model."
        )
    return _exact(price.training)


def _exact(value: float) -> Fraction:
    """The decimal that was written, not the binary number next to it."""
    return Fraction(repr(float(value)))
