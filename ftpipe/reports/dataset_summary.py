"""A summary of a dataset as text: size, tokens, the cost of training, and the verdict."""

from __future__ import annotations

from ftpipe.formatting import (
    Styler,
    count,
    format_bytes,
    format_money,
    format_table,
    plural,
    relative_path,
    sanitize_line,
    unstyled,
)
from ftpipe.records import CostEstimate, Dataset, Report, TokenStats
from ftpipe.reports.findings import headline


def dataset_line(dataset: Dataset, style: Styler = unstyled) -> str:
    """One line: path, examples, size, format and the start of the digest."""
    parts = [
        plural(dataset.examples, "example"),
        format_bytes(dataset.bytes),
        dataset.format.value,
        dataset.sha256[:12],
    ]
    return f"{style('bold', sanitize_line(relative_path(dataset.path), 200))}  {style('dim', ' · '.join(parts))}"


def token_lines(report: Report, style: Styler = unstyled) -> list[str]:
    """The table of tokens, with a row for each file; empty if they were not counted."""
    counted = [("training", report.tokens), ("validation", report.validation_tokens)]
    rows = [_token_row(name, stats) for name, stats in counted if stats is not None]
    if not rows or report.tokens is None:
        return []
    header = ["tokens", "all", "trained", "mean", "median", "p95", "longest", ""]
    lines = format_table([header, *rows], right=range(1, 7))
    notes = [
        f"  not exact: {sanitize_line(stats.note or 'counted with another tokenizer', 300)}"
        for stats in (report.tokens, report.validation_tokens)
        if stats is not None and not stats.exact
    ]
    notes = list(dict.fromkeys(notes))
    if notes and report.target == "local":
        notes.append("  the limit per row and --show-mask use the base model's own tokenizer if it is on this machine")
    if report.tokens.over_limit and report.tokens.limit:
        over = plural(report.tokens.over_limit, "example is", "examples are")
        notes.append(f"  {over} longer than {count(report.tokens.limit)} tokens: the rest is cut from the end")
    return [style("bold", lines[0]), *lines[1:], *(style("dim", note) for note in notes)]


def _token_row(name: str, stats: TokenStats) -> list[str]:
    location = f"at line {stats.longest_line}" if stats.longest_line is not None else ""
    numbers = [stats.total, stats.trained, round(stats.mean), stats.p50, stats.p95, stats.max]
    label = f"  {name}, {stats.at_least}".rstrip(", ")
    return [label, *(count(number) for number in numbers), location]


def cost_lines(cost: CostEstimate, style: Styler = unstyled) -> list[str]:
    """The cost estimate: its range, its price, and how the epochs were determined."""
    title = style("bold", "cost")
    lines = [f"{title}  {sanitize_line(cost.model, 80)}, {plural(cost.epochs, 'epoch')}"]
    if cost.expected is None:
        return [*lines, f"  {style('warning', 'unknown')}: {sanitize_line(cost.warning or cost.source, 200)}"]
    if cost.price_per_million == 0:
        return [*lines, f"  {style('ok', 'free')}: {sanitize_line(cost.source, 120)}"]
    if not cost.tokens_per_epoch:
        return [*lines, "  there are no tokens to train on"]
    amount = f"{cost.at_least}{format_money(cost.expected, cost.currency)}"
    lines.append(f"  {style('bold', amount)}{_range(cost)}")
    price = format_money(cost.price_per_million, cost.currency)
    notes = [f"{price} per million tokens trained, as of {cost.price_as_of}, {sanitize_line(cost.source, 120)}"]
    if cost.is_lower_bound:
        notes.append("the tokens are a lower bound, so the job can cost more")
    if cost.epochs_low != cost.epochs_high:
        notes.append(f"epochs: {sanitize_line(cost.epochs_rule, 400)}")
    return lines + [style("dim", f"  {note}") for note in notes]


def _range(cost: CostEstimate) -> str:
    if cost.low == cost.high:
        return ""
    low, high = format_money(cost.low, cost.currency), format_money(cost.high, cost.currency)
    return f"  (from {low} at {plural(cost.epochs_low, 'epoch')} to {high} at {cost.epochs_high})"


def not_checked_lines(report: Report, style: Styler = unstyled) -> list[str]:
    """One line for each check that was skipped because a package is not installed."""
    return [f"{style('dim', 'not checked')}  {sanitize_line(text, 200)}" for text in report.not_checked]


def verdict_line(report: Report, style: Styler = unstyled) -> str:
    """The headline of the report, with a mark."""
    mark = style("ok", "✓") if report.ok else style("error", "✗")
    return f"{mark} {headline(report)}"
