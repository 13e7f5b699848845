"""Evaluations in a line each, for the pages of models."""

from __future__ import annotations

from collections.abc import Sequence

from ftpipe.plain import Styler, format_table, format_time, sanitize_line, unstyled
from ftpipe.records.evaluation import Evaluation
from ftpipe.reports.evaluation import words


def comparison_lines(
    evaluations: Sequence[Evaluation], models: Sequence[str] = (), paint: Styler = unstyled
) -> list[str]:
    """What the evaluations say about these models, one line a comparison; nothing where there are none.

    Args:
        evaluations: Newest first.
        models: Names to chat with; comparisons that have one of them on either side are listed. All where empty.
        paint: Colours the head.
    """
    rows = []
    for evaluation in evaluations:
        names = {result.arm.name: result.arm.model for result in evaluation.arms}
        for one in evaluation.comparisons:
            sides = {names[one.baseline], names[one.challenger]}
            if one.metric == evaluation.primary and (not models or sides & set(models)):
                rows.append(
                    [
                        format_time(evaluation.created_at)[:10],
                        f"{words.MARKS[one.verdict]} {words.verdict_title(one)}",
                        words.signed(one.difference),
                        words.format_interval(one.low, one.high, is_signed=True),
                        words.label(one.metric),
                        f"{one.items} of {sanitize_line(evaluation.data, 40)}",
                    ]
                )
    return ["", paint("bold", "evaluations"), *format_table(rows)] if rows else []
