"""An evaluation as CSV, one line per item and arm, with no cell that a spreadsheet would run."""

from __future__ import annotations

import csv
import io

from ftpipe.records.evaluation import Evaluation

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\0")
"""First characters at which spreadsheets begin to reckon. Source: OWASP ASVS 5.0, 1.2.10, read 2026-11-24."""


def to_csv(evaluation: Evaluation) -> str:
    """Line, arm, model, the primary score, wanted and given answer, latency and tokens."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n", quoting=csv.QUOTE_ALL)
    head = ["line", "item", "arm", "model", evaluation.primary_metric, "wanted", "answer", "refused", "latency_s"]
    writer.writerow([*head, "prompt_tokens", "completion_tokens"])
    for outcome in evaluation.outcomes:
        for result in evaluation.arms:
            name = result.arm.name
            score = f"{evaluation.item_score(outcome, name):.6g}"
            for answer in outcome.answers[name]:
                numbers = [f"{answer.latency_s:.3f}", answer.prompt_tokens, answer.completion_tokens]
                texts = [outcome.item.expected, answer.text, answer.error]
                writer.writerow(
                    [
                        outcome.item.line,
                        outcome.item.id,
                        escape_csv_cell(name),
                        escape_csv_cell(result.arm.model),
                        score,
                        *map(escape_csv_cell, texts),
                        *numbers,
                    ]
                )
    return stream.getvalue()


def escape_csv_cell(text: str) -> str:
    """The text, behind an apostrophe where a spreadsheet would take it for a formula, without half characters."""
    shown = text.encode("utf-8", "replace").decode("utf-8")
    is_formula = shown.startswith(_FORMULA) or shown.lstrip(" \n").startswith(_FORMULA)
    return ("'" if is_formula else "") + shown.replace("\0", "\u2400")
