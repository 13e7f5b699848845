"""A sweep for a terminal: all trials, best first, with a bar for what they are compared by."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ftpipe.formatting import Styler, format_decimal, format_money, format_table, sanitize_line, unstyled

MEASURES = {"score": "score", "valid_loss": "validation loss", "train_loss": "training loss"}
WIDTH = 24
"""Characters of the longest bar."""


def sweep_lines(sweep: Mapping[str, Any], style: Styler = unstyled) -> Iterator[str]:
    """The trials as a table and a chart, then which one the alias points at.

    Args:
        sweep: A sweep as plain data.
        style: Colours the best one.
    """
    by_score = sweep["compared_by"] == "held-out score"
    key = "score" if by_score else "valid_loss"
    values = [trial[key] for trial in sweep["trials"]]
    most = max((value for value in values if value is not None and math.isfinite(value)), default=0.0)
    told = [name for name in MEASURES if any(trial[name] is not None for trial in sweep["trials"])]
    head = ["", "trial", *(MEASURES[name] for name in told), "cost", ""]
    rows = [head, *(_row(trial, sweep, told, key, most) for trial in sweep["trials"])]
    first, *rest = format_table(rows, right=range(2, 3 + len(told)))
    yield style("bold", first)
    for trial, line in zip(sweep["trials"], rest, strict=True):
        yield style("ok", line) if trial["model"] == sweep["best_model"] else line
    yield ""
    best = sanitize_line(sweep["best_model"], 200)
    yield f"best by {sweep['compared_by']}: {sanitize_line(sweep['alias'], 80)} → {best}"


def _row(trial: Mapping[str, Any], sweep: Mapping[str, Any], told: Sequence[str], key: str, most: float) -> list[str]:
    value = trial[key]
    bar = "" if value is None or not most > 0 else "█" * max(1, round(WIDTH * value / most))
    mark = "→" if trial["model"] is not None and trial["model"] == sweep["best_model"] else ""
    cost = "free" if trial["cost"] == 0 else format_money(trial["cost"], sanitize_line(sweep["currency"], 8))
    shown = bar if trial["model"] else f"{trial['state']}: {sanitize_line(trial['error'], 80)}"
    return [mark, sanitize_line(trial["name"], 80), *(format_decimal(trial[name]) for name in told), cost, shown]
