"""The plan and the result of a migration as text."""

from __future__ import annotations

from collections.abc import Sequence

from ftpipe.formatting import (
    Styler,
    count,
    format_decimal,
    format_money,
    format_table,
    plural,
    sanitize_line,
    unstyled,
)
from ftpipe.records.migration import (
    BaseProposal,
    GateComparison,
    HyperparameterChange,
    Migration,
    MigrationState,
    TrainingSource,
    TrainingTask,
)

MAX_PROPOSALS = 6
SOURCES = {
    TrainingSource.FILE: "named with --data",
    TrainingSource.BACKUP: "from the backup",
    TrainingSource.REGISTRY: "on this machine since it was trained",
    TrainingSource.PROVIDER: "downloaded from its host",
    TrainingSource.DISTILLED: "made of recorded answers",
}


def task_text(task: TrainingTask) -> str:
    """What the data needs, as one line: ``supervised, 96 examples, longest 210 tokens, with tools``."""
    parts = [task.method.value, plural(task.examples, "example"), f"longest {count(task.longest_tokens)} tokens"]
    for number, what in (
        (task.tool_examples, "tools"),
        (task.image_examples, "images"),
        (task.reasoning_examples, "reasoning"),
    ):
        parts += [f"{count(number)} with {what}"] if number else []
    return ", ".join(parts)


def proposal_lines(proposals: Sequence[BaseProposal], chosen: BaseProposal, style: Styler = unstyled) -> list[str]:
    """The proposed bases, the chosen one marked, with price and reason."""
    listed = list(proposals[:MAX_PROPOSALS])
    if chosen.name not in {one.name for one in listed}:
        listed = [chosen, *listed]
    rows = []
    for one in listed:
        mark = "→" if one.name == chosen.name else " "
        why = f"not possible: {one.obstacle}" if one.obstacle else one.reason
        rows.append((mark, sanitize_line(one.name, 80), price_text(one), sanitize_line(why, 300)))
    source = f"  source: {sanitize_line(chosen.source, 200)}"
    return [style("bold", "bases"), *(f"  {line}" for line in format_table(rows)), source]


def price_text(proposal: BaseProposal) -> str:
    """The price of a million trained tokens."""
    if proposal.price_per_million is None:
        return "price not known"
    if proposal.price_per_million == 0:
        return "free"
    return f"{format_money(proposal.price_per_million, proposal.currency)} per 1M tokens"


def change_lines(changes: Sequence[HyperparameterChange], style: Styler = unstyled) -> list[str]:
    """Every hyperparameter: old value, new value and why."""
    rows = [(one.name, f"{one.before} → {one.after}", style("dim", sanitize_line(one.reason, 400))) for one in changes]
    return [style("bold", "hyperparameters"), *(f"  {line}" for line in format_table(rows))] if rows else []


def comparison_line(one: GateComparison) -> str:
    """Both scores, the difference and its interval as one line."""
    interval = f"{one.low:+.3f} to {one.high:+.3f}" if one.low is not None and one.high is not None else "not known"
    scores = f"old {format_decimal(one.old_score, 3)}, new {format_decimal(one.new_score, 3)}"
    return (
        f"{one.kind}: {plural(one.items, 'prompt')}, {sanitize_line(one.metric, 40)} {scores}, "
        f"difference {one.difference:+.3f} "
        f"({one.confidence * 100:g}% interval {interval})"
    )


def gate_text(margin: float, confidence: float) -> str:
    """What the gate is, as one sentence."""
    return (
        f"the aliases move only if the new model is not worse by more than {margin * 100:g} points: "
        f"the lower end of the {confidence * 100:g}% interval of new - old must not be below -{margin:g}"
    )


def result_lines(migration: Migration, style: Styler = unstyled) -> list[str]:
    """The comparisons, the verdict of the gate, and what became of the aliases."""
    lines = []
    for one in migration.comparisons:
        lines.append(comparison_line(one))
        verdict = style("ok", "passed") if one.gate.passed else style("error", "failed")
        lines.append(f"  gate {verdict}: {sanitize_line(one.gate.explanation, 400)}")
        lines += [f"  note: {sanitize_line(one.note.strip('; '), 300)}"] if one.note else []
    if migration.state is MigrationState.MOVED:
        new = sanitize_line(migration.new_model or "", 200)
        lines += [f"{style('ok', 'moved')}  {sanitize_line(one.alias, 200)} → {new}" for one in migration.aliases]
    elif migration.state is MigrationState.ROLLED_BACK:
        lines += [
            f"{style('ok', 'moved back')}  {sanitize_line(one.alias, 200)} → {sanitize_line(one.from_model, 200)}"
            for one in migration.aliases
        ]
    return lines
