"""Advice as text for a terminal: the recommendation, how it was decided, the costs, and what would change it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ftpipe.formatting import Styler, count, format_money, format_table, plural, sanitize_line, unstyled
from ftpipe.records.advice import Advice, BreakEvenCase
from ftpipe.records.evaluation import TokenPrice


def advice_lines(
    advice: Advice, style: Styler = unstyled, *, options: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The advice in reading order: recommendation, first steps, decision, costs, what would change it, prices.

    Args:
        advice: The advice.
        style: Styles text for the terminal.
        options: Field → option that answers its question.
    """
    if advice.recommendation is None:
        yield style("bold", "Too little is known for a recommendation. What must be known:")
        named = [[f"  {one.question}", (options or {}).get(one.field, "")] for one in advice.missing]
        yield from format_table(named)
    else:
        yield style("bold", f"Recommendation: {advice.recommendation.value}")
        yield f"  {sanitize_line(advice.reason, 400)}"
    if advice.first_steps:
        yield ""
        yield style("bold", "First steps")
        yield from (f"  {number}. {sanitize_line(step, 300)}" for number, step in enumerate(advice.first_steps, 1))
    yield ""
    yield style("bold", "What is known" if advice.recommendation is None else "How it was decided")
    yield from format_table(
        [f"  {'→' if step.is_decisive else ' '} {step.question}", sanitize_line(step.answer, 60), step.effect]
        for step in advice.steps
    )
    yield from _costs(advice, style)
    yield from _section("What stands out", advice.observations, style)
    is_open = advice.recommendation is None
    title = "What single answers would lead to" if is_open else "What would change the recommendation"
    yield from _section(title, advice.would_change, style)
    yield from _section("Prices", [_price_line(price) for price in advice.prices], style)


def _costs(advice: Advice, style: Styler) -> Iterator[str]:
    if advice.epoch_cost:
        amount = format_money(advice.epoch_cost.amount, sanitize_line(advice.epoch_cost.currency, 8))
        yield ""
        yield f"One epoch of training: {amount} ({advice.epoch_cost.formula})"
    if not advice.break_even:
        return
    yield ""
    amounts = ["cost per 1,000 base calls", "cost per 1,000 tuned calls", "one-time cost"]
    header = ["break-even", *amounts, "calls", "calls/day", "outcome"]
    first, *rest = format_table([header, *(_case_row(case) for case in advice.break_even)], right=range(1, 6))
    yield style("bold", first)
    yield from rest
    horizon = advice.break_even[0].result.horizon_days
    if horizon is not None:
        yield style("dim", f"calls/day: to reach the break-even before the shutdown in {plural(horizon, 'day')}")


def _case_row(case: BreakEvenCase) -> Sequence[str]:
    result = case.result
    currency = sanitize_line(result.base.currency, 8)
    calls = "never" if result.calls is None else count(result.calls)
    per_day = "–" if result.calls_per_day is None else count(result.calls_per_day)
    outcome = result.outcome + (f", {result.days:,.0f} days" if result.days is not None else "")
    amounts = [format_money(figure.amount, currency) for figure in (result.base, result.tuned, result.one_time)]
    return [sanitize_line(case.name, 40), *amounts, calls, per_day, outcome]


def _section(title: str, lines: Sequence[str], style: Styler) -> Iterator[str]:
    if lines:
        yield ""
        yield style("bold", title)
        yield from (f"  {sanitize_line(line, 400)}" for line in lines)


def _price_line(price: TokenPrice) -> str:
    cached = f", cached {price.cached:g}" if price.cached is not None else ""
    training = f", training {price.training:g}" if price.training is not None else ""
    as_of = f", read {price.as_of}" if price.as_of else ""
    return (
        f"{price.model}: input {price.input:g}{cached}, output {price.output:g}{training} {price.currency} "
        f"per million tokens{as_of}; {price.source}"
    )
