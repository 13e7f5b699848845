"""Every metric by name, with the task that it belongs to; a new one is a function in its file and a line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ftpipe.errors import UsageError
from ftpipe.evaluation.metrics import structured
from ftpipe.evaluation.metrics import text as match
from ftpipe.evaluation.metrics import text as similarity
from ftpipe.grading.graders import grader_metric
from ftpipe.records.evaluation import Answer, Item, Task

Compute = Callable[[Item, Answer], float]


@dataclass(frozen=True)
class Metric:
    """A way to score one answer."""

    name: str
    kind: Literal["right-or-wrong", "score"]
    """What the statistics are: exact McNemar, or the paired bootstrap."""
    compute: Compute
    """From item and answer to a share between 0 and 1."""

    @property
    def about(self) -> str:
        """What it measures, in one sentence."""
        return (self.compute.__doc__ or "").strip().splitlines()[0]


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("exact", "right-or-wrong", match.exact),
        Metric("normalised", "right-or-wrong", match.normalised),
        Metric("json_valid", "right-or-wrong", structured.json_valid),
        Metric("json_match", "right-or-wrong", structured.json_match),
        Metric("json_fields", "score", structured.json_fields),
        Metric("tool_choice", "right-or-wrong", structured.tool_choice),
        Metric("tool_name", "right-or-wrong", structured.tool_name),
        Metric("tool_match", "right-or-wrong", structured.tool_match),
        Metric("rouge_l", "score", similarity.rouge_l),
        Metric("edit", "score", similarity.edit),
        Metric("chrf", "score", similarity.chrf),
    )
}

TASK_METRICS: dict[Task, tuple[str, ...]] = {
    Task.LABEL: ("exact", "normalised"),
    Task.JSON: ("json_match", "json_valid", "json_fields", "exact"),
    Task.TOOLS: ("tool_match", "tool_name", "tool_choice"),
    Task.TEXT: ("exact", "normalised", "rouge_l", "edit"),
}
"""The first of a task is what its verdict is about, text aside (see ``select_metrics``)."""

MACRO_F1 = "macro_f1"
"""Taken over all items of a label task, not item by item."""

GRADER = "grader"
"""The score of a grader in OpenAI's JSON."""

MAX_SHORT_ANSWER_WORDS = 8
"""Words up to which a free text can sensibly be asked to match as a whole."""


def select_metrics(
    task: Task,
    items: Sequence[Item],
    *,
    requested: Sequence[str] = (),
    schema: dict[str, Any] | None = None,
    grader: dict[str, Any] | None = None,
) -> tuple[list[Metric], str]:
    """The metrics to take, and the name of the one that the verdict is about.

    Args:
        task: What the answers are.
        items: The questions; long free texts are compared by likeness, short ones as a whole.
        requested: Names given by the user: these and no others, the first being the verdict's.
        schema: JSON schema that answers are checked against as well.
        grader: Grader in OpenAI's JSON; it decides unless others are asked.

    Raises:
        UsageError: A name is not known.
    """
    names = list(requested) or list(TASK_METRICS[task])
    primary = names[0]
    if not requested and task is Task.TEXT:
        longest = sorted(len(item.expected.split()) for item in items)[len(items) // 2] if items else 0
        primary = "normalised" if longest <= MAX_SHORT_ANSWER_WORDS else "rouge_l"
        names += ["chrf"] if similarity.has_chrf() else []
    elif not requested and task is Task.LABEL:
        primary = "normalised"
    if not requested and schema is not None:
        names.append("schema_valid")
    single = [name for name in names if name not in (MACRO_F1, GRADER)] or ["normalised"]
    metrics = [_metric(name, schema) for name in single]
    if grader is not None:
        metrics.insert(0, Metric(GRADER, "score", grader_metric(grader)))
        primary = primary if requested else GRADER
    elif GRADER in names:
        raise UsageError("the metric grader needs a grader", "give one in OpenAI's JSON with --grader FILE")
    return metrics, primary


def _metric(name: str, schema: dict[str, Any] | None) -> Metric:
    if name == "schema_valid":
        if schema is None:
            raise UsageError("The metric schema_valid needs a schema.", "Give the JSON schema with --schema FILE.")
        return Metric(name, "right-or-wrong", structured.schema_check(schema))
    if name not in METRICS:
        known = ", ".join([*METRICS, "schema_valid", MACRO_F1])
        raise UsageError(f"There is no metric {name!r}.", f"Known metrics: {known}.")
    return METRICS[name]
