"""An evaluation as text for a terminal: scores, cost, regressions and verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ftpipe.formatting import (
    Styler,
    count,
    fit_table,
    format_money,
    format_table,
    format_time,
    plural,
    sanitize_line,
    table_width,
    unstyled,
)
from ftpipe.records.evaluation import Comparison, Evaluation
from ftpipe.reports.evaluation import wording

STYLES = {"win": "ok", "loss": "error", "equivalent": "info", "inconclusive": "warning"}
MAX_TABLE_COLUMNS = 80
"""A wider table of scores has one row for each metric instead of one for each model."""
MAX_REGRESSIONS = 5
"""Regressions listed; the HTML report has all of them."""


def evaluation_lines(evaluation: Evaluation, style: Styler = unstyled) -> Iterator[str]:
    """The evaluation; the verdict is last, so that it stays on the screen."""
    yield from _scores(evaluation, style)
    yield ""
    yield from _costs(evaluation, style)
    for name in evaluation.challengers:
        yield from _changed_items(evaluation, name, style)
    for judgment in evaluation.judgments:
        yield from ("", wording.judge_sentence(judgment))
    for name in wording.ordered_challengers(evaluation):
        yield ""
        for comparison in [evaluation.primary_comparison(name), *evaluation.control_comparisons(name)]:
            yield from _verdict(comparison, style)
            for overlap in evaluation.overlaps_of(comparison):
                yield style("warning" if overlap.items else "dim", f"  {wording.overlap_sentence(overlap)}")
    if evaluation.gates:
        yield ""
    for gate in evaluation.gates:
        symbol = style("ok", "✓ gate") if gate.passed else style("error", "✗ gate")
        yield f"{symbol} {sanitize_line(gate.expression, 100)}  {sanitize_line(gate.explanation, 300)}"


def _scores(evaluation: Evaluation, style: Styler) -> Iterator[str]:
    names = wording.ordered_metrics(evaluation)
    header = ["", *(wording.metric_label(name) for name in names)]
    rows = [
        [sanitize_line(result.arm.name, 48), *(wording.score_cell(result.score(name)) for name in names)]
        for result in evaluation.arms
    ]
    lines = format_table([header, *rows])
    if table_width(lines) > MAX_TABLE_COLUMNS:
        lines = format_table(zip(header, *rows, strict=True))
    yield style("bold", lines[0])
    yield from lines[1:]


def _costs(evaluation: Evaluation, style: Styler) -> Iterator[str]:
    """Latency and tokens, and costs and refusals if there are any."""
    usages = [result.usage for result in evaluation.arms]
    has_cost, has_rejected = any(usage.cost != 0 for usage in usages), any(usage.rejected for usage in usages)
    header = ["", "p50", "p95", "tokens in", "tokens out"]
    rows = [header + ["per 1,000 requests"] * has_cost + ["rejected"] * has_rejected]
    for result in evaluation.arms:
        usage = result.usage
        latency = ["–" if value is None else f"{value:.2f} s" for value in (usage.latency_p50_s, usage.latency_p95_s)]
        cost = None if usage.cost_per_request is None else usage.cost_per_request * 1000
        tokens = [count(usage.prompt_tokens), count(usage.completion_tokens)]
        rows.append(
            [
                sanitize_line(result.arm.name, 48),
                *latency,
                *tokens,
                *[format_money(cost, sanitize_line(usage.currency, 8))] * has_cost,
                *[str(usage.rejected)] * has_rejected,
            ]
        )
    yield from fit_table(rows, width=None, right=range(1, len(rows[0])), style=style)
    if note := wording.latency_conditions(evaluation):
        yield style("dim", note)


def _changed_items(evaluation: Evaluation, name: str, style: Styler) -> Iterator[str]:
    regressed, improved = evaluation.changed_items(name)
    if not regressed and not improved:
        return
    yield ""
    yield f"{sanitize_line(name, 80)}: {plural(len(improved), 'item')} improved, {len(regressed)} regressed"
    rows = []
    for outcome in regressed[:MAX_REGRESSIONS]:
        texts = (outcome.item.expected, *(outcome.answers[arm][0].text for arm in (evaluation.baseline, name)))
        rows.append([f"  line {outcome.item.line}", *(sanitize_line(text, 36) for text in texts)])
    if rows:
        cells = ("  regressed", "expected", sanitize_line(evaluation.baseline, 30), sanitize_line(name, 30))
        yield from format_table([[style("dim", cell) for cell in cells], *rows])
    if len(regressed) > MAX_REGRESSIONS:
        yield style("dim", f"  … and {len(regressed) - MAX_REGRESSIONS} more")


def _verdict(comparison: Comparison, style: Styler) -> Iterator[str]:
    symbol = wording.VERDICT_SYMBOLS[comparison.verdict]
    yield style(STYLES[comparison.verdict], f"{symbol} {wording.verdict_title(comparison)}")
    yield f"  {wording.verdict_reason(comparison)}"
    if wording.verdict_note(comparison):
        yield f"  {wording.verdict_note(comparison)}"


def comparison_lines(
    evaluations: Sequence[Evaluation], models: Sequence[str] = (), style: Styler = unstyled
) -> list[str]:
    """The comparisons of these models in earlier evaluations, one per line; empty if there are none.

    Args:
        evaluations: Newest first.
        models: Names at the endpoint; comparisons with one of them are listed. If empty, all comparisons are.
        style: Styles the title.
    """
    rows = []
    for evaluation in evaluations:
        names = {result.arm.name: result.arm.model for result in evaluation.arms}
        for comparison in evaluation.comparisons:
            compared = {names[comparison.baseline], names[comparison.challenger]}
            if comparison.metric == evaluation.primary_metric and (not models or compared & set(models)):
                is_trained = any(overlap.items for overlap in evaluation.overlaps_of(comparison))
                title = f"{wording.VERDICT_SYMBOLS[comparison.verdict]} {wording.verdict_title(comparison)}"
                rows.append(
                    [
                        format_time(evaluation.created_at)[:10],
                        title + " (with items of the training data)" * is_trained,
                        wording.format_difference(comparison.difference),
                        wording.format_interval(comparison.low, comparison.high, is_signed=True),
                        wording.metric_label(comparison.metric),
                        f"{comparison.items} of {sanitize_line(evaluation.data, 40)}",
                    ]
                )
    return ["", style("bold", "evaluations"), *format_table(rows)] if rows else []
