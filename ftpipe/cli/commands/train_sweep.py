"""``ftpipe train --sweep``: the grid, its budget, and the best model under an alias."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options
from ftpipe.cli.context import CliContext
from ftpipe.cli.group import Command
from ftpipe.config import Settings
from ftpipe.errors import UsageError
from ftpipe.formatting import format_money, plural, sanitize_line
from ftpipe.reports.runs import loss_text, step_text

if TYPE_CHECKING:
    from ftpipe.providers.provider import Provider
    from ftpipe.records import CostEstimate, Model, Report, Run, RunSpec
    from ftpipe.registry import Registry
    from ftpipe.sweep.runner import Scores

LINE_SECONDS = 15.0
"""Between two lines about one trial."""
_AXIS = re.compile(r"[a-z_]+=[^=\s]*,[^=\s]*")

sweep_options = options.combine_options(
    click.option("--sweep", multiple=True, metavar="AXIS…", help="Train a grid: n_epochs=1,3 lora_r=8,16."),
    click.option("--concurrency", type=click.IntRange(1, 64), default=2, show_default=True, help="Of a sweep's jobs."),
    click.option("--evaluate", type=options.FILE, metavar="FILE", help="Compare a sweep's models on held-out items."),
    click.option("--alias", metavar="NAME", help="Points at a sweep's best model; DATA's name @best otherwise."),
)


class SweepCommand(Command):
    """A command whose ``--sweep`` takes all the axes that follow it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give each axis after ``--sweep`` a flag of its own."""
        return super().parse_args(ctx, expand_sweep_args(args))


def expand_sweep_args(args: Sequence[str]) -> list[str]:
    """``--sweep a=1,2 b=3,4`` as ``--sweep a=1,2 --sweep b=3,4``."""
    result: list[str] = []
    for word in args:
        follows = len(result) >= 2 and result[-2] == "--sweep" and "=" in result[-1]
        result += ["--sweep", word] if follows and _AXIS.fullmatch(word) else [word]
    return result


def run_sweep(context: CliContext, settings: Settings, spec: RunSpec, report: Report, flags: dict[str, Any]) -> None:
    """Plan the grid, keep to the budget, train, compare, and name the best."""
    from ftpipe.catalog.training_prices import PriceTable
    from ftpipe.cli.dataset_request import require_file
    from ftpipe.reports.runs import sweep_lines
    from ftpipe.sweep.grid import parse_grid
    from ftpipe.sweep.runner import SweepRunner, enforce_total_budget

    points = parse_grid([term for text in flags["sweep"] for term in text.split()])
    if flags["evaluate"] is not None:
        require_file(flags["evaluate"])
    elif spec.validation is None:
        raise UsageError(
            "without validation data the trials cannot be compared", "add --validation FILE or --evaluate FILE"
        )
    provider = context.provider(spec.provider, settings)
    pipeline = context.pipeline(provider, context.registry(settings))
    teller = TrialReporter(context, pipeline.registry)
    sweeper = SweepRunner(pipeline, concurrency=flags["concurrency"], on_trial=teller.trial, on_progress=teller.look)
    prices = PriceTable.load(settings.config.prices, target=provider.profile.target)
    planned = sweeper.plan(spec, points, report, prices=prices)
    costs = [plan.cost for _, plan in planned]
    enforce_total_budget(costs, settings.config.max_cost)
    context.print_status(plan_lines([name for name, _ in planned], costs, is_paid=provider.profile.paid))
    context.add(trials=[name for name, _ in planned])
    if flags["dry_run"]:
        return
    if provider.profile.paid and not flags["yes"]:
        context.confirm("Go ahead?")
    context.interrupt_message, context.resume_hint = (
        "interrupted; every trial keeps what was done",
        "the same command goes on",
    )
    runs = sweeper.train(planned)
    scores = scorer(context, settings, provider, spec, flags["evaluate"])
    alias = flags["alias"] or f"{spec.suffix or spec.data.stem}@best"
    sweep = sweeper.rank_trials(points, runs, alias=alias, scores=scores)
    context.add(sweep=sweep)
    context.print_result(sweep_lines(sweep, context.style))


def plan_lines(names: Sequence[str], costs: Sequence[CostEstimate | None], *, is_paid: bool) -> list[str]:
    """The trials one by one, and what they may cost together."""
    highs = [None if cost is None else cost.high for cost in costs]
    known = [high for high in highs if high is not None]
    total = (
        "free" if not is_paid else "cost unknown" if len(known) < len(highs) else f"up to {format_money(sum(known))}"
    )
    return [f"sweep of {plural(len(names), 'trial')}, {total}", *(f"  {sanitize_line(name, 100)}" for name in names)]


class TrialReporter:
    """Says how far the trials have come: each beginning and end, and in between a line now and then.

    Args:
        context: Takes the lines.
        registry: Has the jobs' losses.
        clock: Monotonic seconds.
    """

    def __init__(self, context: CliContext, registry: Registry, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._registry = registry
        self._clock = clock
        self._told: dict[str, float] = {}

    def trial(self, name: str, run: Run) -> None:
        """A trial has begun or ended."""
        where = run.model.id if run.model else run.job.id if run.job else run.id
        error = f": {run.error}" if run.error else ""
        self._context.print_status(
            f"  {sanitize_line(name, 80)}  {run.state.value}  {sanitize_line(where, 120)}{sanitize_line(error, 200)}"
        )
        self._told[name] = self._clock()

    def look(self, name: str, run: Run) -> None:
        """A trial goes on."""
        if run.job is None or self._clock() - self._told.get(name, 0.0) < LINE_SECONDS:
            return
        metrics = self._registry.jobs.metrics(run.job.id)
        losses = f", {loss_text(metrics)}" if metrics else ""
        step = f"step {step_text(metrics[-1])}" if metrics else sanitize_line(run.job.status, 40)
        self._context.print_status(f"  {sanitize_line(name, 80)}  {step}{losses}")
        self._told[name] = self._clock()


def scorer(
    context: CliContext, settings: Settings, provider: Provider, spec: RunSpec, data: Path | None
) -> Scores | None:
    """Scores models on held-out items against their base; the whole evaluation is kept with its page."""
    if data is None:
        return None

    def scores(models: Sequence[Model]) -> Mapping[str, float]:
        from ftpipe.cli.commands.evaluate import default_options, run_evaluation, show, write
        from ftpipe.cli.evaluation_arms import EvaluationArms, arm_of

        target = provider.profile.target
        arms = [arm_of(spec.model, None, target), *(arm_of(model.id, model, target) for model in models)]
        sides = EvaluationArms(spec.provider, tuple(arms), {model.id: model for model in models})
        flags = default_options(data)
        evaluation = run_evaluation(context, settings, sides, flags)
        show(context, evaluation)
        write(context, settings, evaluation, sides, flags)
        return {result.arm.name: result.score(evaluation.primary_metric).value for result in evaluation.arms[1:]}

    return scores
