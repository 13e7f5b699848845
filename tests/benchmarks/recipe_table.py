"""Tables of the journal of recipes: mean regret of each recipe with bootstrap intervals, and the losses by task.

The regret of a run is by how much the logarithm of its held-out loss is above that of the recipe that is the best one
for its task, with the same seed. Means over runs are shown as percent: 10 % means that losses are 10 % above the best
ones (in the geometric mean). Intervals are of the bootstrap over tasks: each resample draws whole tasks with all their
seeds, so that they also cover how much tasks differ. There are few tasks, so they are rough.

Processor time is that of training, per run, against the first recipe in the runs that both have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from ftpipe.evaluation.statistics import Interval, bootstrap

Losses = Mapping[tuple[str, str, int], float]
"""Logarithm of the held-out loss by recipe, task and seed."""
SMALLEST_LOSS = 1e-4
"""Losses are rounded to 1e-5; below this their ratios mean nothing."""
DROP_CONFIDENCE = 0.99


def log_losses(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, int], float]:
    """The logarithms of the losses in the journal's rows."""
    return {(row["recipe"], row["task"], row["seed"]): math.log(max(SMALLEST_LOSS, row["loss"])) for row in rows}


def differences(losses: Losses, first: str, second: str, tasks: Iterable[str]) -> list[list[float]]:
    """``first`` minus ``second`` in the runs that both have, task by task."""
    groups = []
    for task in tasks:
        seeds = [seed for recipe, name, seed in losses if (recipe, name) == (first, task)]
        group = [
            losses[first, task, seed] - losses[second, task, seed] for seed in seeds if (second, task, seed) in losses
        ]
        if group:
            groups.append(group)
    return groups


def mean_over_tasks(groups: Sequence[Sequence[float]], confidence: float = 0.95) -> Interval:
    """Mean of the tasks' means, with its bootstrap interval."""
    return bootstrap([[fmean(group)] for group in groups], fmean, confidence=confidence)


def best_recipe(losses: Losses, recipes: Sequence[str], tasks: Sequence[str]) -> str | None:
    """The recipe with the least mean among those that have most runs; ``None`` without runs."""
    counts = {name: sum(recipe == name and task in tasks for recipe, task, _ in losses) for name in recipes}
    most = max(counts.values(), default=0)
    complete = [name for name in recipes if counts[name] == most and most]
    means = {
        name: fmean(value for (recipe, task, _), value in losses.items() if recipe == name and task in tasks)
        for name in complete
    }
    return min(means, key=means.__getitem__, default=None)


def clearly_worse(
    rows: Iterable[Mapping[str, Any]], recipes: Sequence[str], tasks: Sequence[str], seeds: Iterable[int]
) -> set[str]:
    """Recipes whose interval against the best one is above zero; none unless all of them have all runs."""
    losses = log_losses(rows)
    wanted = {(recipe, task, seed) for recipe in recipes for task in tasks for seed in seeds}
    best = best_recipe(losses, recipes, tasks)
    if best is None or not wanted <= losses.keys():
        return set()
    return {
        name
        for name in recipes
        if name != best and mean_over_tasks(differences(losses, name, best, tasks), DROP_CONFIDENCE).low > 0
    }


def regrets(losses: Losses, recipe: str, recipes: Sequence[str], tasks: Sequence[str]) -> list[list[float]]:
    """Task by task, the recipe's distance from the best recipe of the task."""
    groups = []
    for task in tasks:
        best = best_recipe(losses, recipes, [task])
        if best is not None:
            groups += differences(losses, recipe, best, [task])
    return groups


def processor_time(rows: Sequence[Mapping[str, Any]], recipe: str, first: str) -> str:
    """How many times as much of it a recipe needs as the first one."""
    seconds = {(row["recipe"], row["task"], row["seed"]): row["cpu_seconds"] for row in rows if "cpu_seconds" in row}
    pairs = [(task, seed) for name, task, seed in seconds if name == recipe and (first, task, seed) in seconds]
    own, other = (sum(seconds[name, task, seed] for task, seed in pairs) for name in (recipe, first))
    return f"{own / other:.2f}" if other else ""


def percent(value: float) -> str:
    """A difference of logarithms as percent."""
    return f"{math.expm1(value):+.0%}" if math.isfinite(value) else "?"


def with_interval(interval: Interval) -> str:
    """A mean with the ends of its interval."""
    return f"{percent(interval.value)} ({percent(interval.low)} to {percent(interval.high)})"


def tables(rows: Sequence[Mapping[str, Any]], recipes: Sequence[str], tasks: Sequence[str]) -> str:
    """Markdown: regrets, then mean losses and exact answers by task."""
    rows = [row for row in rows if row["task"] in tasks]
    losses, first = log_losses(rows), recipes[0]
    lines = [
        f"| recipe | runs | seeds | regret | against {first} | exact answers | processor time |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in recipes:
        own = [row for row in rows if row["recipe"] == name]
        if not own:
            continue
        seeds = len({row["seed"] for row in own})
        regret = with_interval(mean_over_tasks(regrets(losses, name, recipes, tasks)))
        against = "" if name == first else with_interval(mean_over_tasks(differences(losses, name, first, tasks)))
        exact = sum(row["exact"] for row in own) / sum(row["questions"] for row in own)
        time = processor_time(rows, name, first)
        lines.append(f"| {name} | {len(own)} | {seeds} | {regret} | {against} | {exact:.0%} | {time} |")
    lines += ["", "| recipe | " + " | ".join(tasks) + " |", "|---|" + "---:|" * len(tasks)]
    for name in recipes:
        cells = []
        for task in tasks:
            own = [row for row in rows if (row["recipe"], row["task"]) == (name, task)]
            exact = sum(row["exact"] for row in own) / max(1, sum(row["questions"] for row in own))
            cells.append(f"{fmean(row['loss'] for row in own):.3f}, {exact:.0%}" if own else "")
        if any(cells):
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
