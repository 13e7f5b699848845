"""``ftpipe train --sweep``: train a grid within one budget, and give the best model an alias."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftpipe.cli.base_downloads import prepare_base
from ftpipe.cli.context import CliContext
from ftpipe.cli.output.progress import LineThrottle
from ftpipe.config import Settings
from ftpipe.errors import UsageError
from ftpipe.formatting import format_money, plural, sanitize_line
from ftpipe.reports.runs import loss_text, step_text

if TYPE_CHECKING:
    from ftpipe.providers.provider import Provider
    from ftpipe.records import CostEstimate, Model, Report, Run, RunSpec
    from ftpipe.registry import Registry
    from ftpipe.sweep.runner import Scores


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Options of a sweep."""

    axes: tuple[str, ...]
    """``KEY=V1,V2``."""
    concurrency: int = 2
    evaluate: Path | None = None
    max_tokens: int | None = None
    alias: str | None = None
    dry_run: bool = False
    yes: bool = False


def run_sweep(context: CliContext, settings: Settings, spec: RunSpec, report: Report, options: SweepOptions) -> None:
    """Plan the grid, check the budget, train, compare, and set the alias.

    Raises:
        UsageError: The grid is wrong, or there is nothing to compare the models on.
        CostLimitError: The trials together are over the budget.
    """
    from ftpipe.catalog.training_prices import PriceTable
    from ftpipe.cli.output.run import host_of
    from ftpipe.reports.runs import sweep_lines
    from ftpipe.sweep.grid import parse_grid
    from ftpipe.sweep.runner import SweepRunner, enforce_total_budget

    points = parse_grid(options.axes)
    if options.evaluate is None and spec.validation is None:
        raise UsageError(
            "without validation data the trials cannot be compared", "add --validation FILE or --evaluate FILE"
        )
    provider = context.provider(spec.provider, settings)
    prepare_base(context, provider, spec.model)
    pipeline = context.pipeline(provider, context.registry(settings))
    reporter = TrialReporter(context, pipeline.registry)
    runner = SweepRunner(
        pipeline, concurrency=options.concurrency, on_trial=reporter.on_trial, on_progress=reporter.on_progress
    )
    prices = PriceTable.load(settings.config.prices, target=provider.profile.target)
    planned = runner.plan(spec, points, report, prices=prices)
    costs = [plan.cost for _, plan in planned]
    enforce_total_budget(costs, settings.config.max_cost)
    context.print_status(sweep_plan_lines([name for name, _ in planned], costs, is_paid=provider.profile.paid))
    context.add(trials=[name for name, _ in planned])
    if options.dry_run:
        return
    if provider.profile.paid and not options.yes:
        context.confirm(f"Pay for these jobs at {host_of(provider)}: go ahead?")
    with context.interruptible("interrupted; the state of every trial is saved", "run the same command to continue"):
        runs = runner.train(planned)
        scores = scorer(context, settings, provider, spec, options.evaluate, options.max_tokens)
        alias = options.alias or f"{spec.suffix or spec.data.stem}@best"
        sweep = runner.rank_trials(points, runs, alias=alias, scores=scores)
    context.add(sweep=sweep)
    context.print_result(sweep_lines(sweep, context.style))


def sweep_plan_lines(names: Sequence[str], costs: Sequence[CostEstimate | None], *, is_paid: bool) -> list[str]:
    """List the trials and their total cost."""
    highs = [None if cost is None else cost.high for cost in costs]
    known = [high for high in highs if high is not None]
    total = (
        "free" if not is_paid else "cost unknown" if len(known) < len(highs) else f"up to {format_money(sum(known))}"
    )
    if is_paid and any(cost is not None and cost.is_lower_bound for cost in costs):
        total += " or more, because the tokens are a lower bound"
    return [f"sweep of {plural(len(names), 'trial')}, {total}", *(f"  {sanitize_line(name, 100)}" for name in names)]


class TrialReporter:
    """Writes a line when a trial starts or ends, and now and then one about its progress.

    Args:
        context: Writes the lines.
        registry: Has the metrics of the jobs.
        clock: Monotonic seconds.
    """

    def __init__(self, context: CliContext, registry: Registry, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._registry = registry
        self._clock = clock
        self._throttles: dict[str, LineThrottle] = {}

    def on_trial(self, name: str, run: Run) -> None:
        """Report a trial that has started or ended."""
        reached = run.model.id if run.model else run.job.id if run.job else run.id
        error = f": {run.error}" if run.error else ""
        self._context.print_status(
            f"  {sanitize_line(name, 80)}  {run.state.value}  {sanitize_line(reached, 120)}{sanitize_line(error, 200)}"
        )
        self._throttles[name] = LineThrottle(self._clock)

    def on_progress(self, name: str, run: Run) -> None:
        """Report the progress of a trial, if a line is due."""
        throttle = self._throttles.setdefault(name, LineThrottle(self._clock, started_at=0.0))
        if run.job is None or not throttle.is_due():
            return
        metrics = self._registry.jobs.metrics(run.job.id)
        losses = f", {loss_text(metrics)}" if metrics else ""
        step = f"step {step_text(metrics[-1])}" if metrics else sanitize_line(run.job.status, 40)
        self._context.print_status(f"  {sanitize_line(name, 80)}  {step}{losses}")


def scorer(
    context: CliContext,
    settings: Settings,
    provider: Provider,
    spec: RunSpec,
    data: Path | None,
    max_tokens: int | None = None,
) -> Scores | None:
    """Return a function that scores models on held-out items and saves the evaluation; ``None`` without items."""
    if data is None:
        return None

    def scores(models: Sequence[Model]) -> Mapping[str, float]:
        from ftpipe.cli.commands.evaluate import EvaluateOptions, run_evaluation, save, show
        from ftpipe.cli.evaluation_arms import EvaluationArms, arm_of

        target = provider.profile.target
        arms = [arm_of(spec.model, None, target), *(arm_of(model.id, model, target) for model in models)]
        resolved = EvaluationArms(spec.provider, tuple(arms), {model.id: model for model in models})
        options = EvaluateOptions(data=data, max_tokens=max_tokens)
        evaluation = run_evaluation(context, settings, resolved, options)
        show(context, evaluation)
        save(context, settings, evaluation, resolved, options)
        return {result.arm.name: result.score(evaluation.primary_metric).value for result in evaluation.arms[1:]}

    return scores
