"""An evaluation as Markdown, for a pull-request comment or a job summary."""

from __future__ import annotations

from collections.abc import Iterator

from ftpipe.formatting import count, format_money
from ftpipe.records.evaluation import Evaluation, Outcome
from ftpipe.reports.evaluation.wording import (
    VERDICT_SYMBOLS,
    format_difference,
    format_interval,
    format_p,
    judge_sentence,
    latency_conditions,
    metric_label,
    ordered_challengers,
    ordered_comparisons,
    ordered_metrics,
    overlap_sentence,
    price_sources,
    score_cell,
    verdict_note,
    verdict_reason,
    verdict_title,
)
from ftpipe.reports.markdown_text import escape_markdown, markdown_table

MAX_REGRESSIONS = 20
"""Regressions listed."""


def to_markdown(evaluation: Evaluation) -> str:
    """The evaluation with its verdicts, scores, costs and regressions."""
    return "\n".join(_lines(evaluation)) + "\n"


def _lines(evaluation: Evaluation) -> Iterator[str]:
    for name in ordered_challengers(evaluation):
        headline = evaluation.primary_comparison(name)
        yield f"## {VERDICT_SYMBOLS[headline.verdict]} {escape_markdown(verdict_title(headline))}"
        yield ""
        yield escape_markdown(f"{verdict_reason(headline)} {verdict_note(headline)}", 600)
        yield ""
        for overlap in evaluation.overlaps_of(headline):
            yield from (f"**{escape_markdown(overlap_sentence(overlap), 600)}**", "")
        for one in evaluation.control_comparisons(name):
            yield from (escape_markdown(f"{verdict_title(one)}: {verdict_reason(one)}", 600), "")
    for judgment in evaluation.judgments:
        yield from (escape_markdown(judge_sentence(judgment), 600), "")
    if evaluation.gates:
        yield from markdown_table(
            ["gate", "passed", "reason"],
            [
                [
                    escape_markdown(one.expression),
                    "yes" if one.passed else "**no**",
                    escape_markdown(one.explanation, 400),
                ]
                for one in evaluation.gates
            ],
        )
    yield from _scores(evaluation)
    yield from _comparisons(evaluation)
    yield from _costs(evaluation)
    for name in ordered_challengers(evaluation):
        yield from _changed_items(evaluation, name)
    yield f"Items: `{escape_markdown(evaluation.data)}` `{evaluation.data_sha256[:12]}`; evaluation `{evaluation.id}`."
    for line in price_sources(tuple(evaluation.arms)):
        yield f"- {escape_markdown(line, 400)}"


def _scores(evaluation: Evaluation) -> Iterator[str]:
    names = ordered_metrics(evaluation)
    rows = [
        [escape_markdown(result.arm.name), *(score_cell(result.score(name)) for name in names)]
        for result in evaluation.arms
    ]
    yield from markdown_table(["arm", *(metric_label(name) for name in names)], rows)


def _comparisons(evaluation: Evaluation) -> Iterator[str]:
    rows = [
        [
            escape_markdown(one.challenger),
            escape_markdown(one.baseline),
            metric_label(one.metric),
            format_difference(one.difference),
            format_interval(one.low, one.high, is_signed=True),
            format_p(one.p_value_adjusted).replace("<", "&lt;"),
            f"{VERDICT_SYMBOLS[one.verdict]} {one.verdict}",
        ]
        for one in ordered_comparisons(evaluation)
    ]
    yield from markdown_table(["arm", "baseline", "metric", "difference", "interval", "p (Holm)", "verdict"], rows)


def _costs(evaluation: Evaluation) -> Iterator[str]:
    rows = []
    for result in evaluation.arms:
        usage = result.usage
        latency = [
            f"{value:.2f} s" if value is not None else "–" for value in (usage.latency_p50_s, usage.latency_p95_s)
        ]
        per_thousand = None if usage.cost_per_request is None else usage.cost_per_request * 1000
        rows.append(
            [
                escape_markdown(result.arm.name),
                *latency,
                count(usage.prompt_tokens),
                count(usage.completion_tokens),
                escape_markdown(format_money(per_thousand, usage.currency)),
            ]
        )
    yield from markdown_table(["arm", "p50", "p95", "tokens in", "tokens out", "per 1,000 requests"], rows)
    if note := latency_conditions(evaluation):
        yield f"{note}\n"


def _changed_items(evaluation: Evaluation, challenger: str) -> Iterator[str]:
    regressed, improved = evaluation.changed_items(challenger)
    yield f"**{escape_markdown(challenger)}**: {len(improved)} items improved, {len(regressed)} regressed."
    yield ""
    if regressed:
        rows = [_row(evaluation, outcome, challenger) for outcome in regressed[:MAX_REGRESSIONS]]
        yield from markdown_table(
            ["line", "expected", escape_markdown(evaluation.baseline), escape_markdown(challenger)], rows
        )
    if len(regressed) > MAX_REGRESSIONS:
        yield from (f"… and {len(regressed) - MAX_REGRESSIONS} more.", "")


def _row(evaluation: Evaluation, outcome: Outcome, challenger: str) -> list[str]:
    answers = [outcome.answers[arm][0].text for arm in (evaluation.baseline, challenger)]
    return [str(outcome.item.line), *(escape_markdown(text) for text in (outcome.item.expected, *answers))]
