"""When a tuned model has paid for itself: the cost per call with and without tuning, and the break-even point.

::

    base  = P*p_in (or cached) + u*p_in + o*p_out      P fixed prompt, u variable, o output tokens of one call
    tuned = P'*q_in (or cached) + u*q_in + o*q_out     q the tuned model's prices, P' its shorter prompt
    C     = T*E*p_train + data + evaluation + labor + retraining
    N*    = C / (base - tuned)                         never, if tuned costs as much or more
    a day = (C/H + G) / (base - tuned)                 H days until shutdown, G hosting cost per day

Amounts are exact fractions of the decimals in the price rows, so that no result depends on rounding.
"""

from __future__ import annotations

import math
from datetime import date
from fractions import Fraction
from typing import Literal

from pydantic import Field

from ftpipe.errors import UsageError
from ftpipe.records import Record
from ftpipe.records.advice import BreakEven, CostFigure
from ftpipe.records.evaluation import TokenPrice

MIN_CACHED_PROMPT_TOKENS = 1024
"""Prompt tokens from which OpenAI caches. Source: openai-cookbook, Prompt_Caching_201, read 2026-11-24."""

CACHE_STEP_TOKENS = 128
"""Cached prefixes grow in steps of this many tokens; same source."""


class TypicalCall(Record):
    """The tokens of one typical call."""

    fixed_prompt: int = Field(ge=0)
    """The part that is the same in every call: instructions and examples."""
    tuned_fixed_prompt: int = Field(ge=0)
    """What remains of that part after tuning."""
    variable: int = Field(ge=0)
    """The part that differs from call to call."""
    output: int = Field(ge=0)


class Training(Record):
    """What is paid once, in the currency of the price row."""

    tokens: int = Field(ge=0)
    """Tokens in the training file."""
    epochs: int = Field(ge=1)
    data: float = Field(default=0.0, ge=0)
    evaluation: float = Field(default=0.0, ge=0)
    labor: float = Field(default=0.0, ge=0)
    """Hours of work times their rate; usually the largest part."""
    retrainings: int = Field(default=0, ge=0)
    """How often the training alone is paid again within the horizon."""


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
    prompt: int, variable: int, output: int, price: TokenPrice, *, caching: bool, whole_steps: bool = False
) -> tuple[Fraction, int]:
    """What one call costs, exactly, and how many of its tokens are cached.

    Args:
        prompt: Tokens that are the same in every call.
        variable: Tokens that differ.
        output: Tokens of the answer.
        price: The row of the model that answers.
        caching: Whether the endpoint has the prompt cached (a steady stream of calls).
        whole_steps: Round the cached part down to whole steps of 128. Without it the last, at most 127, tokens count
            as cached too, which makes the base look about one percent cheaper than it is.
    """
    cached = 0
    if caching and price.cached is not None and prompt >= MIN_CACHED_PROMPT_TOKENS:
        cached = prompt // CACHE_STEP_TOKENS * CACHE_STEP_TOKENS if whole_steps else prompt
    uncached = prompt + variable - cached
    cost = uncached * _exact(price.input) + cached * _exact(price.cached or 0.0) + output * _exact(price.output)
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
    """Compute when tuning has paid for itself.

    Args:
        call: One typical call.
        training: What is paid once.
        base: Prices of the model that answers today.
        tuned: Prices of the tuned model, with its training price.
        caching: Whether long prompts are cached; compute both, the result often depends on it.
        calls_per_day: Traffic, if known.
        today: Day from which the horizon counts; needed together with ``shutdown_date``.
        shutdown_date: Day on which the tuned model is shut down.
        hosting_per_day: Cost per day of your own machine, for a model that you serve yourself.
        whole_steps: See ``call_cost``.

    Raises:
        UsageError: The rows are in different currencies, or have no training price.
    """
    if base.currency != tuned.currency:
        raise UsageError(
            f"prices in {base.currency} and {tuned.currency} cannot be compared", "give both prices in one currency"
        )
    sizes = ((call.fixed_prompt, base), (call.tuned_fixed_prompt, tuned))
    (base_cost, base_cached), (tuned_cost, tuned_cached) = (
        call_cost(prompt, call.variable, call.output, price, caching=caching, whole_steps=whole_steps)
        for prompt, price in sizes
    )
    one_time = one_time_cost(training, tuned)
    horizon = max(0, (shutdown_date - today).days) if shutdown_date and today else None
    calls, needed_per_day, days = _break_even_point(
        _exact(one_time.amount), base_cost - tuned_cost, horizon, _exact(hosting_per_day), calls_per_day
    )
    return BreakEven(
        base=_cost_of_1000_calls(call.fixed_prompt, base_cached, call, base, base_cost),
        tuned=_cost_of_1000_calls(call.tuned_fixed_prompt, tuned_cached, call, tuned, tuned_cost),
        one_time=one_time,
        prompt_caching=caching,
        base_cached_tokens=base_cached,
        tuned_cached_tokens=tuned_cached,
        calls=calls,
        horizon_days=horizon,
        calls_per_day=needed_per_day,
        days=days,
        outcome=_outcome(calls, calls_per_day, days, horizon, needed_per_day),
    )


def one_time_cost(training: Training, price: TokenPrice) -> CostFigure:
    """What is paid once: training and retraining, data, evaluation and labor.

    Raises:
        UsageError: The row has no training price.
    """
    per_million = _training_price(price)
    trainings = 1 + training.retrainings
    others = [("data", training.data), ("evaluation", training.evaluation), ("labor", training.labor)]
    amount = Fraction(training.tokens) * training.epochs * trainings * per_million / 1_000_000
    amount += sum((_exact(value) for _, value in others), Fraction(0))
    repeated = f" x {trainings} trainings" if trainings > 1 else ""
    formula = f"{training.tokens:,} tokens x {training.epochs} epochs x {price.training:g} per million{repeated}"
    formula += "".join(f" + {value:,.2f} {name}" for name, value in others if value)
    return CostFigure(amount=float(amount), currency=price.currency, formula=formula, rows=(price,))


def _break_even_point(
    one_time: Fraction, saved: Fraction, horizon: int | None, hosting: Fraction, calls_per_day: float | None
) -> tuple[int | None, int | None, float | None]:
    """Calls until the break-even, calls per day to reach it within the horizon, and days at the given traffic."""
    if saved <= 0:
        return None, None, None
    calls = math.ceil(one_time / saved)
    needed_per_day = math.ceil((one_time / horizon + hosting) / saved) if horizon else None
    if horizon is None and hosting:
        needed_per_day = math.ceil(hosting / saved)
    if not calls_per_day:
        return calls, needed_per_day, None
    saved_per_day = _exact(calls_per_day) * saved - hosting
    return calls, needed_per_day, float(one_time / saved_per_day) if saved_per_day > 0 else None


def _outcome(
    calls: int | None, calls_per_day: float | None, days: float | None, horizon: int | None, needed_per_day: int | None
) -> Literal["pays off", "too late", "never", "depends on traffic"]:
    if calls is None:
        return "never"
    if horizon == 0:
        return "too late"
    if not calls_per_day:
        return "pays off" if calls == 0 and not needed_per_day else "depends on traffic"
    if days is None:
        return "never"
    return "too late" if horizon is not None and days > horizon else "pays off"


def _cost_of_1000_calls(prompt: int, cached: int, call: TypicalCall, price: TokenPrice, cost: Fraction) -> CostFigure:
    parts = [f"{prompt + call.variable - cached:,} x {price.input:g}"]
    if cached:
        parts.append(f"{cached:,} cached x {price.cached:g}")
    parts.append(f"{call.output:,} output x {price.output:g}")
    formula = f"1,000 x ({' + '.join(parts)}) / 1,000,000"
    return CostFigure(amount=float(cost * 1000), currency=price.currency, formula=formula, rows=(price,))


def _training_price(price: TokenPrice) -> Fraction:
    if price.training is None:
        raise UsageError(
            f"there is no training price for {price.model}", "give one with --train-price, or choose another model"
        )
    return _exact(price.training)


def _exact(value: float) -> Fraction:
    """The decimal number as written, not the nearest binary number."""
    return Fraction(repr(float(value)))
