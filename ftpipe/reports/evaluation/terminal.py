"""An evaluation for a terminal: the verdict, the scores, the cost, and what got worse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ftpipe.formatting import Styler, count, format_money, format_table, format_time, plural, sanitize_line, unstyled
from ftpipe.records.evaluation import Comparison, Evaluation
from ftpipe.reports.evaluation import wording

STYLES = {"win": "ok", "loss": "error", "inconclusive": "warning"}
MAX_REGRESSIONS = 5
"""Items that got worse, at most; the page has all."""


def evaluation_lines(evaluation: Evaluation, style: Styler = unstyled) -> Iterator[str]:
    """The evaluation, the verdict last, where the eye rests."""
    yield from _scores(evaluation, style)
    yield ""
    yield from _costs(evaluation, style)
    for name in evaluation.challengers:
        yield from _worse(evaluation, name, style)
    for judged in evaluation.judgments:
        yield from ("", wording.judge_sentence(judged))
    for name in wording.ordered_challengers(evaluation):
        yield ""
        for comparison in [evaluation.primary_comparison(name), *evaluation.control_comparisons(name)]:
            yield from _verdict(comparison, style)
    if evaluation.gates:
        yield ""
    for gate in evaluation.gates:
        mark = style("ok", "✓ gate") if gate.passed else style("error", "✗ gate")
        yield f"{mark} {sanitize_line(gate.expression, 100)}  {sanitize_line(gate.explanation, 300)}"


def _scores(evaluation: Evaluation, style: Styler) -> Iterator[str]:
    names = wording.ordered_metrics(evaluation)
    head = ["", *(wording.metric_label(name) for name in names)]
    rows = [
        [sanitize_line(result.arm.name, 48), *(wording.score_cell(result.score(name)) for name in names)]
        for result in evaluation.arms
    ]
    first, *rest = format_table([head, *rows])
    yield style("bold", first)
    yield from rest


def _costs(evaluation: Evaluation, style: Styler) -> Iterator[str]:
    rows = [["", "p50", "p95", "tokens in", "tokens out", "per 1,000 requests", "refused"]]
    for result in evaluation.arms:
        used = result.usage
        latency = ["–" if value is None else f"{value:.2f} s" for value in (used.latency_p50_s, used.latency_p95_s)]
        cost = None if used.cost_per_request is None else used.cost_per_request * 1000
        tokens = [count(used.prompt_tokens), count(used.completion_tokens)]
        rows.append(
            [
                sanitize_line(result.arm.name, 48),
                *latency,
                *tokens,
                format_money(cost, sanitize_line(used.currency, 8)),
                str(used.rejected),
            ]
        )
    first, *rest = format_table(rows, right=range(1, 7))
    yield style("bold", first)
    yield from rest
    if note := wording.latency_conditions(evaluation):
        yield style("dim", note)


def _worse(evaluation: Evaluation, name: str, style: Styler) -> Iterator[str]:
    worse, better = evaluation.changed_items(name)
    if not worse and not better:
        return
    yield ""
    yield f"{sanitize_line(name, 80)}: {plural(len(better), 'item')} got better, {len(worse)} worse"
    rows = []
    for outcome in worse[:MAX_REGRESSIONS]:
        texts = (outcome.item.expected, *(outcome.answers[arm][0].text for arm in (evaluation.baseline, name)))
        rows.append([f"  line {outcome.item.line}", *(sanitize_line(text, 36) for text in texts)])
    if rows:
        head = [
            style("dim", cell)
            for cell in ("  worse", "wanted", sanitize_line(evaluation.baseline, 30), sanitize_line(name, 30))
        ]
        yield from format_table([head, *rows])
    if len(worse) > MAX_REGRESSIONS:
        yield style("dim", f"  … and {len(worse) - MAX_REGRESSIONS} more")


def _verdict(comparison: Comparison, style: Styler) -> Iterator[str]:
    mark = wording.VERDICT_SYMBOLS[comparison.verdict]
    yield style(STYLES[comparison.verdict], f"{mark} {wording.verdict_title(comparison)}")
    yield f"  {wording.verdict_reason(comparison)}"
    if wording.more_items(comparison):
        yield f"  {wording.more_items(comparison)}"


def comparison_lines(
    evaluations: Sequence[Evaluation], models: Sequence[str] = (), style: Styler = unstyled
) -> list[str]:
    """What the evaluations say about these models, one line a comparison; nothing where there are none.

    Args:
        evaluations: Newest first.
        models: Names to chat with; comparisons that have one of them on either side are listed. All where empty.
        style: Colours the head.
    """
    rows = []
    for evaluation in evaluations:
        names = {result.arm.name: result.arm.model for result in evaluation.arms}
        for one in evaluation.comparisons:
            sides = {names[one.baseline], names[one.challenger]}
            if one.metric == evaluation.primary_metric and (not models or sides & set(models)):
                rows.append(
                    [
                        format_time(evaluation.created_at)[:10],
                        f"{wording.VERDICT_SYMBOLS[one.verdict]} {wording.verdict_title(one)}",
                        wording.format_difference(one.difference),
                        wording.format_interval(one.low, one.high, is_signed=True),
                        wording.metric_label(one.metric),
                        f"{one.items} of {sanitize_line(evaluation.data, 40)}",
                    ]
                )
    return ["", style("bold", "evaluations"), *format_table(rows)] if rows else []
