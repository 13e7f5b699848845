"""An evaluation as CSV, one row per item, arm and sample; no cell is a formula."""

from __future__ import annotations

import csv
import io

from ftpipe.records.evaluation import Evaluation

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\0")
"""First characters of a formula in spreadsheets. Source: OWASP ASVS 5.0, 1.2.10, read 2026-11-24."""


def to_csv(evaluation: Evaluation) -> str:
    """Line, arm, model, primary score, expected and actual answer, latency and tokens."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n", quoting=csv.QUOTE_ALL)
    header = ["line", "item", "arm", "model", evaluation.primary_metric, "expected", "answer", "error", "latency_s"]
    writer.writerow([*header, "prompt_tokens", "completion_tokens"])
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
    """The text, with an apostrophe before it if it looks like a formula, and without lone surrogates."""
    shown = text.encode("utf-8", "replace").decode("utf-8")
    is_formula = shown.startswith(_FORMULA) or shown.lstrip(" \n").startswith(_FORMULA)
    return ("'" if is_formula else "") + shown.replace("\0", "\u2400")
