"""``ftpipe train --sweep``: train a grid within one budget, and give the best model an alias."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ftpipe.cli.base_downloads import prepare_base, require_base
from ftpipe.cli.context import DEFAULT_COLUMNS, CliContext
from ftpipe.cli.output.progress import LineThrottle, console
from ftpipe.config import Settings
from ftpipe.errors import UsageError
from ftpipe.formatting import format_decimal, format_money, plural, sanitize_line
from ftpipe.records import Method, RunState
from ftpipe.reports.runs import last_value, loss_text, step_text

if TYPE_CHECKING:
    from ftpipe.providers.provider import Provider
    from ftpipe.records import CostEstimate, Model, Report, Run, RunSpec, TrainingMetrics
    from ftpipe.registry import Registry
    from ftpipe.sweep.runner import Scores


BAR_COLUMNS = 16
"""Narrow, so that a trial's name, bar, steps and loss fit into 80 columns."""


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
    if options.evaluate is None and spec.method is Method.REINFORCEMENT:
        raise UsageError(
            "reinforcement has no validation loss by which trials could be compared", "add --evaluate FILE"
        )
    provider = context.provider(spec.provider, settings)
    require_base(provider, spec.model)
    prepare_base(context, provider, spec.model)
    pipeline = context.pipeline(provider, context.registry(settings))
    reporter = make_reporter(context, pipeline.registry, len(points))
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
        with reporter:
            runs = runner.train(planned)
        scores = scorer(context, settings, provider, spec, options.evaluate, options.max_tokens)
        alias = options.alias or f"{spec.suffix or spec.data.stem}@best"
        sweep = runner.rank_trials(points, runs, alias=alias, scores=scores)
    context.add(sweep=sweep)
    context.print_result(sweep_lines(sweep, context.style, width=context.width or DEFAULT_COLUMNS))


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
        self.context = context
        self._registry = registry
        self._clock = clock
        self._throttles: dict[str, LineThrottle] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        """End the display."""

    def on_trial(self, name: str, run: Run) -> None:
        """Report a trial that has started or ended."""
        reached = run.model.id if run.model else run.job.id if run.job else run.id
        error = f": {run.error}" if run.error else ""
        self.write(
            f"  {sanitize_line(name, 80)}  {run.state.value}  {sanitize_line(reached, 120)}{sanitize_line(error, 200)}"
        )
        self._throttles[name] = LineThrottle(self._clock)

    def on_progress(self, name: str, run: Run) -> None:
        """Report the progress of a trial, if a line is due."""
        throttle = self._throttles.setdefault(name, LineThrottle(self._clock, started_at=0.0))
        if run.job is None or not throttle.is_due():
            return
        metrics = self.metrics_of(run)
        losses = f", {loss_text(metrics)}" if metrics else ""
        step = f"step {step_text(metrics[-1])}" if metrics else sanitize_line(run.job.status, 40)
        self.write(f"  {sanitize_line(name, 80)}  {step}{losses}")

    def metrics_of(self, run: Run) -> Sequence[TrainingMetrics]:
        """What the job of a trial has reported."""
        return self._registry.jobs.metrics(run.job.id) if run.job else ()

    def write(self, line: str) -> None:
        """Write one line."""
        self.context.print_status(line)


class TrialBars(TrialReporter):
    """On a terminal: a bar for the trials and one for each trial that is trained; the lines are above them.

    Args:
        context: Writes the lines.
        registry: Has the metrics of the jobs.
        trials: Number of trials.
    """

    def __init__(self, context: CliContext, registry: Registry, trials: int) -> None:
        from rich import progress as rich

        super().__init__(context, registry)
        columns = (rich.TextColumn("{task.description}"), rich.BarColumn(BAR_COLUMNS), rich.MofNCompleteColumn())
        details = (rich.TextColumn("{task.fields[detail]}"), rich.TimeElapsedColumn())
        self._bars = rich.Progress(*columns, *details, console=console(context), transient=True)
        self._all = self._bars.add_task("trials", total=trials, detail="")
        self._tasks: dict[str, rich.TaskID] = {}
        self._ended: set[str] = set()

    def __enter__(self) -> Self:
        """Start drawing."""
        self._bars.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Stop drawing."""
        self._bars.stop()

    def on_trial(self, name: str, run: Run) -> None:
        """Start or end the bar of a trial; a search also calls this when it pauses one, and in each round."""
        super().on_trial(name, run)
        task = self._tasks.pop(name, None)
        if task is not None:
            self._bars.remove_task(task)
        if run.state in (RunState.REGISTERED, RunState.FAILED):
            self._ended.add(name)
            self._bars.update(self._all, completed=len(self._ended))
        elif task is None:
            self._tasks[name] = self._bars.add_task(sanitize_line(name, 60), total=None, detail="")

    def on_progress(self, name: str, run: Run) -> None:
        """Draw the steps and losses of a trial."""
        metrics = self.metrics_of(run)
        if metrics and name in self._tasks:
            last, loss = metrics[-1], last_value(metrics, "train_loss")
            detail = f"loss {format_decimal(loss)}" if loss is not None else ""
            self._bars.update(self._tasks[name], completed=last.step, total=last.total_steps, detail=detail)

    def write(self, line: str) -> None:
        """Write one line above the bars."""
        from rich.text import Text

        self._bars.console.print(Text.from_ansi(self.context.redact(line)), soft_wrap=True)


def make_reporter(context: CliContext, registry: Registry, trials: int) -> TrialReporter:
    """Bars on a terminal, lines otherwise."""
    if sys.stderr.isatty() and not context.quiet:
        return TrialBars(context, registry, trials)
    return TrialReporter(context, registry)


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
