"""``ftpipe train --auto``: search learning rate, rank and epochs within a budget, and give the best model an alias."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftpipe.auto_epochs import auto_epochs
from ftpipe.cli.base_downloads import prepare_base, require_base
from ftpipe.cli.commands.prepare import split_data
from ftpipe.cli.commands.train_sweep import SweepOptions, make_reporter, scorer
from ftpipe.cli.context import DEFAULT_COLUMNS, CliContext
from ftpipe.cli.dataset_request import DatasetRequest
from ftpipe.config import Settings
from ftpipe.errors import UsageError
from ftpipe.formatting import duration, format_money, plural, relative_path, sanitize_line
from ftpipe.records import Method

if TYPE_CHECKING:
    from ftpipe.pipeline.pipeline import Pipeline
    from ftpipe.records import Report, RunSpec
    from ftpipe.records.sweep import Sweep
    from ftpipe.sweep.halving import Round
    from ftpipe.sweep.search import SearchPlan, SearchRunner

VALIDATION_FRACTION = 0.1
"""Share of the rows that trials are compared on, if no validation file is given."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions(SweepOptions):
    """Options of a search."""

    budget_minutes: float | None = None


def split_for_search(context: CliContext, request: DatasetRequest, *, seed: int) -> DatasetRequest:
    """The request with the data split into training and validation files, in the project's state folder.

    Raises:
        DatasetError: The data cannot be split.
    """
    from ftpipe.dataset.identity import sha256_of_dataset
    from ftpipe.paths import state_dir
    from ftpipe.sweep.search import FOLDER

    folder = state_dir().absolute() / FOLDER / f"data-{sha256_of_dataset(request.data)[:16]}-{seed}"
    halves, sizes = split_data(request, VALIDATION_FRACTION, seed, folder)
    context.print_status(
        f"no validation file: {sizes.validation} of {plural(sizes.train + sizes.validation, 'row')} of "
        f"{relative_path(request.data)} are not trained and compare the trials (in {relative_path(folder)})"
    )
    return halves


def run_auto(
    context: CliContext, settings: Settings, spec: RunSpec, report: Report, options: SearchOptions, *, name: str
) -> None:
    """Plan the search, ask, train, and set the alias.

    Args:
        context: Shows progress and asks.
        settings: The configuration.
        spec: What is requested for each trial.
        report: Of the data.
        options: Options of the search.
        name: Name of the data, for the alias.

    Raises:
        UsageError: There is nothing to search or to compare trials by, or the time is too short.
        CostLimitError: The money does not suffice.
    """
    from ftpipe.cli.output.run import host_of
    from ftpipe.reports.runs import sweep_lines
    from ftpipe.sweep.search import SearchRunner

    if spec.method is Method.REINFORCEMENT:
        raise UsageError(
            "--auto compares trials by their validation loss, and reinforcement has none",
            "leave --auto out; --sweep KEY=V1,V2 with --evaluate FILE compares trials by their answers",
        )
    provider = context.provider(spec.provider, settings)
    require_base(provider, spec.model)
    prepare_base(context, provider, spec.model)
    pipeline = context.pipeline(provider, context.registry(settings))
    plan = plan_search(pipeline, settings, spec, report, options)
    context.add(search=search_document(plan), trials=list(plan.state.points_by_name))
    context.print_status(search_lines(plan, pipeline))
    if options.dry_run:
        return
    if provider.profile.paid and not options.yes:
        context.confirm(f"Pay for these jobs at {host_of(provider)}: go ahead?")
    reporter = make_reporter(context, pipeline.registry, len(plan.state.points))

    def on_round(current: Round, names: Sequence[str]) -> None:
        reporter.write(f"round: {plural(len(names), 'trial')} up to epoch {current.epochs}")

    runner = SearchRunner(
        pipeline,
        plan,
        concurrency=options.concurrency,
        on_trial=reporter.on_trial,
        on_progress=reporter.on_progress,
        on_round=on_round,
    )
    with context.interruptible("interrupted; the state of every trial is saved", "run the same command to continue"):
        with reporter:
            runner.search()
        sweep = runner.result(alias=options.alias or f"{spec.suffix or name}@best")
    context.add(sweep=sweep, search={**search_document(plan), **outcome_document(runner)})
    context.print_result(sweep_lines(sweep, context.style, width=context.width or DEFAULT_COLUMNS))
    context.print_status(outcome_lines(runner, sweep))
    scores = scorer(context, settings, provider, spec, options.evaluate, options.max_tokens)
    if scores is not None:
        scores([pipeline.registry.models.get(sweep.best_model)])


def plan_search(
    pipeline: Pipeline, settings: Settings, spec: RunSpec, report: Report, options: SearchOptions
) -> SearchPlan:
    """Choose the trials of a search.

    Raises:
        UsageError: Every hyperparameter has a value already, or the time is too short.
        CostLimitError: The money does not suffice.
    """
    from ftpipe.catalog.training_prices import PriceTable
    from ftpipe.pipeline.training_estimates import estimate_run
    from ftpipe.sweep.grid import parse_grid
    from ftpipe.sweep.halving import default_axes
    from ftpipe.sweep.search import Budget, SearchPlanner

    profile, hyperparameters = pipeline.provider.profile, spec.hyperparameters
    epochs = hyperparameters.n_epochs
    if epochs == "auto":
        epochs = report.cost.epochs if report.cost else auto_epochs(report.dataset.examples)
    names = ["epochs", "learning_rate_multiplier", *["lora_rank"] * ("lora_r" in profile.extended_hyperparameters)]
    fixed = {
        "epochs": hyperparameters.n_epochs != "auto",
        "learning_rate_multiplier": hyperparameters.learning_rate is not None
        or hyperparameters.learning_rate_multiplier != "auto",
        "lora_rank": hyperparameters.lora_r is not None,
    }
    given = {axis.partition("=")[0] for axis in options.axes} | {axis for axis, is_fixed in fixed.items() if is_fixed}
    if "learning_rate" in given:
        given.add("learning_rate_multiplier")
    axes = [*options.axes, *default_axes(names, epochs=epochs, given=given)]
    if not axes:
        raise UsageError(
            "--auto has nothing to search: learning rate, rank and epochs are all given",
            "leave one of them out, or name values with --sweep KEY=V1,V2",
        )
    spec = spec.model_copy(update={"hyperparameters": hyperparameters.model_copy(update={"n_epochs": epochs})})
    estimate = estimate_run(settings, spec, report)
    seconds = estimate.seconds if estimate else None
    budget = Budget(
        max_cost=settings.config.max_cost,
        seconds=None if options.budget_minutes is None else options.budget_minutes * 60,
        seconds_per_epoch=None if seconds is None else seconds / epochs,
    )
    prices = PriceTable.load(settings.config.prices, target=profile.target)
    return SearchPlanner(pipeline, spec, report, budget, prices).plan(parse_grid(axes), default_epochs=epochs)


def search_lines(plan: SearchPlan, pipeline: Pipeline) -> Iterator[str]:
    """What a search will do, and what it needs."""
    profile, state = pipeline.provider.profile, plan.state
    needs = ["free"] if not profile.paid else []
    if profile.paid:
        cost = plan.report.cost
        more = " or more, because the tokens are a lower bound" if cost is not None and cost.is_lower_bound else ""
        needs = ["cost unknown" if plan.cost is None else f"up to {format_money(plan.cost)} for all jobs{more}"]
    if plan.seconds is not None:
        needs.append(f"about {duration(plan.seconds)} at most")
    yield f"search with {plural(len(state.points), 'trial')}, {', '.join(needs)}"
    rounds = [f"{plural(one.trials, 'trial')} up to epoch {one.epochs}" for one in state.rounds]
    yield f"  {'rounds':<8}{'; then the better '.join(rounds)}"
    title = profile.title or profile.name
    if len(state.rounds) > 1:
        how = (
            "each round continues the jobs of the last one"
            if plan.continues
            else f"each round starts again with more epochs: {title} is not asked to pause jobs, and each job is paid"
        )
        yield f"  {'':<8}{how}"
    yield f"  {'compare':<8}by the validation loss; the best model gets the alias, the others stay"
    if state.outcomes != ({},):
        spent = duration(state.spent_seconds)
        yield f"  {'journal':<8}this search was begun before and continues; it has taken {spent} so far"
    for name in state.points_by_name:
        yield f"  {sanitize_line(name, 100)}"


def search_document(plan: SearchPlan) -> dict[str, object]:
    """A planned search as JSON values."""
    return {
        "rounds": [one.model_dump() for one in plan.state.rounds],
        "continues_jobs": plan.continues,
        "max_cost": plan.cost,
        "seconds": plan.seconds,
        "journal": str(plan.path),
    }


def outcome_document(runner: SearchRunner) -> dict[str, object]:
    """How a search went, as JSON values."""
    return {"spent_seconds": round(runner.state.spent_seconds, 1), "not_started": runner.state.not_started()}


def outcome_lines(runner: SearchRunner, sweep: Sweep) -> Iterator[str]:
    """How long a search took, which trials failed, and which ones it left out."""
    yield f"searched for {duration(runner.state.spent_seconds)}"
    if names := runner.state.not_started():
        yield f"{plural(len(names), 'trial')} did not start in a round, because the time was up: {', '.join(names)}"
    for trial in sweep.trials:
        if trial.model is None and trial.error:
            yield f"failed: {sanitize_line(trial.name, 80)}: {sanitize_line(trial.error, 300)}"
    if names := runner.retryable():
        yield f"run the same command to try {plural(len(names), 'trial')} of the last round again"
