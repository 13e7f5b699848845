"""Advice for a terminal: the road, the questions that led there, the numbers, and what would change it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ftpipe.formatting import Styler, count, format_money, format_table, plural, sanitize_line, unstyled

Document = Mapping[str, Any]
"""An advice as plain data, as ``--json`` shows it."""


def advice_lines(advice: Document, style: Styler = unstyled) -> Iterator[str]:
    """The advice in the order in which it is read: road, reason, first steps, numbers, doubts, sources."""
    yield style("bold", f"Road: {sanitize_line(advice['recommendation'])}")
    yield f"  {sanitize_line(advice['reason'], 400)}"
    if advice["first_steps"]:
        yield ""
        yield style("bold", "First")
        yield from (f"  {number}. {sanitize_line(step, 300)}" for number, step in enumerate(advice["first_steps"], 1))
    yield ""
    yield style("bold", "How it was decided")
    rows = [
        [
            f"  {'→' if step['is_decisive'] else ' '} {step['question']}",
            sanitize_line(step["answer"], 60),
            step["effect"],
        ]
        for step in advice["steps"]
    ]
    yield from format_table(rows)
    yield from _numbers(advice, style)
    yield from _listed("What the numbers teach", advice["observations"], style)
    yield from _listed("What would change the answer", advice["would_change"], style)
    yield from _listed("Prices", [_row(row) for row in advice["prices"]], style)


def _numbers(advice: Document, style: Styler) -> Iterator[str]:
    if advice["epoch_cost"]:
        epoch = advice["epoch_cost"]
        yield ""
        amount = format_money(epoch["amount"], sanitize_line(epoch["currency"], 8))
        yield f"One epoch of training: {amount} ({epoch['formula']})"
    if not advice["break_even"]:
        return
    yield ""
    head = ["break-even", "1,000 calls now", "tuned", "paid once", "calls", "a day", "outcome"]
    rows = [_case(case) for case in advice["break_even"]]
    first, *rest = format_table([head, *rows], right=range(1, 6))
    yield style("bold", first)
    yield from rest
    horizon = next((case["result"]["horizon_days"] for case in advice["break_even"]), None)
    if horizon is not None:
        yield style(
            "dim", f"a day: calls a day that make it even within the {plural(horizon, 'day')} the model has left"
        )


def _case(case: Document) -> Sequence[str]:
    result = case["result"]
    currency = sanitize_line(result["base"]["currency"], 8)
    calls = "never" if result["calls"] is None else count(result["calls"])
    per_day = "–" if result["calls_per_day"] is None else count(result["calls_per_day"])
    outcome = result["outcome"] + (f", {result['days']:,.0f} days" if result["days"] is not None else "")
    amounts = [format_money(result[side]["amount"], currency) for side in ("base", "tuned", "one_time")]
    return [sanitize_line(case["name"], 40), *amounts, calls, per_day, outcome]


def _listed(title: str, lines: Sequence[str], style: Styler) -> Iterator[str]:
    if lines:
        yield ""
        yield style("bold", title)
        yield from (f"  {sanitize_line(line, 400)}" for line in lines)


def _row(row: Document) -> str:
    prices = f"input {row['input']:g}"
    prices += f", cached {row['cached']:g}" if row["cached"] is not None else ""
    prices += f", output {row['output']:g}"
    prices += f", training {row['training']:g}" if row["training"] is not None else ""
    when = f", read {row['as_of']}" if row["as_of"] else ""
    return f"{row['model']}: {prices} {row['currency']} per million tokens{when}; {row['source']}"
