"""The table of metrics, and which of them each task uses. A new metric is a function in its file and a line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ftpipe.errors import UsageError
from ftpipe.evaluation.metrics import structured, text
from ftpipe.grading.graders import grader_metric
from ftpipe.records.evaluation import Answer, Item, Task

Compute = Callable[[Item, Answer], float]


@dataclass(frozen=True)
class Metric:
    """A way to score one answer."""

    name: str
    kind: Literal["binary", "score"]
    """Decides the test: exact McNemar for binary metrics, the paired bootstrap for scores."""
    compute: Compute
    """From item and answer to a score between 0 and 1."""


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("exact", "binary", text.exact),
        Metric("normalized", "binary", text.normalized),
        Metric("json_valid", "binary", structured.json_valid),
        Metric("json_match", "binary", structured.json_match),
        Metric("json_fields", "score", structured.json_fields),
        Metric("tool_choice", "binary", structured.tool_choice),
        Metric("tool_name", "binary", structured.tool_name),
        Metric("tool_match", "binary", structured.tool_match),
        Metric("rouge_l", "score", text.rouge_l),
        Metric("edit", "score", text.edit),
        Metric("chrf", "score", text.chrf),
    )
}

TASK_METRICS: dict[Task, tuple[str, ...]] = {
    Task.LABEL: ("exact", "normalized"),
    Task.JSON: ("json_match", "json_valid", "json_fields", "exact"),
    Task.TOOLS: ("tool_match", "tool_name", "tool_choice"),
    Task.TEXT: ("exact", "normalized", "rouge_l", "edit"),
}
"""The first metric of a task is its primary one, except for labels and texts (see ``select_metrics``)."""

MACRO_F1 = "macro_f1"
"""Computed over all items of a label task, not item by item."""

GRADER = "grader"
"""The score of a grader in OpenAI's JSON format."""

MAX_SHORT_ANSWER_WORDS = 8
"""Median length in words up to which texts are compared as a whole."""


def select_metrics(
    task: Task,
    items: Sequence[Item],
    *,
    requested: Sequence[str] = (),
    schema: dict[str, Any] | None = None,
    grader: dict[str, Any] | None = None,
) -> tuple[list[Metric], str]:
    """The metrics to compute, and the name of the primary one, which decides the verdict.

    Args:
        task: The kind of answers.
        items: Long texts are compared by similarity, short ones as a whole.
        requested: Names given by the user: only these are computed, and the first is primary.
        schema: JSON schema that answers are validated against.
        grader: Grader in OpenAI's JSON format; it is primary unless metrics are requested.

    Raises:
        UsageError: A name is unknown.
    """
    names = list(requested) or list(TASK_METRICS[task])
    primary = names[0]
    if not requested and task is Task.TEXT:
        median = sorted(len(item.expected.split()) for item in items)[len(items) // 2] if items else 0
        primary = "normalized" if median <= MAX_SHORT_ANSWER_WORDS else "rouge_l"
        names += ["chrf"] if text.has_chrf() else []
    elif not requested and task is Task.LABEL:
        primary = "normalized"
    if not requested and schema is not None:
        names.append("schema_valid")
    per_item = [name for name in names if name not in (MACRO_F1, GRADER)] or ["normalized"]
    metrics = [_metric(name, schema) for name in per_item]
    if grader is not None:
        metrics.insert(0, Metric(GRADER, "score", grader_metric(grader)))
        primary = primary if requested else GRADER
    elif GRADER in names:
        raise UsageError("the metric grader needs a grader", "give one in OpenAI's JSON format with --grader FILE")
    return metrics, primary


def _metric(name: str, schema: dict[str, Any] | None) -> Metric:
    if name == "schema_valid":
        if schema is None:
            raise UsageError("the metric schema_valid needs a schema", "give the JSON schema with --schema FILE")
        return Metric(name, "binary", structured.schema_check(schema))
    if name not in METRICS:
        known = ", ".join([*METRICS, "schema_valid", MACRO_F1])
        raise UsageError(f"there is no metric {name!r}", f"known metrics: {known}")
    return METRICS[name]
