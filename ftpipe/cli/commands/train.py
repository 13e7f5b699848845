"""``ftpipe train``: check the data, show the plan, ask before money is spent, then run the pipeline."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options as shared
from ftpipe.cli.base_downloads import prepare_base, require_base
from ftpipe.cli.commands.evaluate import read_object
from ftpipe.cli.commands.prepare import DatasetOptions, require_no_errors, show
from ftpipe.cli.commands.train_auto import SearchOptions, run_auto, split_for_search
from ftpipe.cli.commands.train_sweep import SweepOptions, run_sweep, scorer
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import (
    LOCAL_PROVIDER,
    DatasetRequest,
    remember_provider,
    require_dataset,
    resolve_for_train,
    spec_of,
    validate_and_count,
)
from ftpipe.cli.group import Command
from ftpipe.config import Settings
from ftpipe.errors import UsageError
from ftpipe.formatting import format_time, plural, relative_path
from ftpipe.records import Report, RunSpec
from ftpipe.records.job import EXTENDED_HYPERPARAMETERS, REINFORCEMENT_HYPERPARAMETERS
from ftpipe.reports.runs import plan_lines

if TYPE_CHECKING:
    from ftpipe.pipeline.preflight import Plan
    from ftpipe.providers.provider import Provider


MAX_NAMED_LINES = 10


@dataclass(frozen=True, kw_only=True)
class TrainOptions(DatasetOptions):
    """Options of ``ftpipe train``."""

    batch_size: str | None = None
    learning_rate_multiplier: str | None = None
    beta: str | None = None
    recipe: str | None = None
    grader: Path | None = None
    compute_multiplier: str | None = None
    eval_interval: str | None = None
    eval_samples: str | None = None
    max_completion_tokens: str | None = None
    learning_rate: str | None = None
    lora_r: str | None = None
    lora_alpha: str | None = None
    lora_dropout: str | None = None
    target_modules: str | None = None
    max_length: str | None = None
    precision: str | None = None
    quantization: str | None = None
    gradient_checkpointing: bool | None = None
    skip_bad_rows: bool = False
    suffix: str | None = None
    serve_as: str | None = None
    yes: bool = False
    dry_run: bool = False
    detach: bool = False
    force_new: bool = False
    timeout: float | None = None
    auto: bool = False
    budget_minutes: float | None = None
    sweep: tuple[str, ...] = ()
    concurrency: int = SweepOptions.concurrency
    evaluate: Path | None = None
    max_tokens: int | None = None
    alias: str | None = None

    def as_settings(self) -> dict[str, object]:
        """Return the options as settings: dotted key → value."""
        names = (
            *("batch_size", "learning_rate_multiplier", "beta"),
            *REINFORCEMENT_HYPERPARAMETERS,
            *EXTENDED_HYPERPARAMETERS,
        )
        return {
            **super().as_settings(),
            "suffix": self.suffix,
            "recipe": self.recipe,
            "grader": read_object(self.grader, "grader"),
            **{f"hyperparameters.{name}": getattr(self, name) for name in names},
        }

    def search_options(self) -> SearchOptions:
        """Return the options of the sweep or the search."""
        return SearchOptions(
            budget_minutes=self.budget_minutes,
            axes=self.sweep,
            concurrency=self.concurrency,
            evaluate=self.evaluate,
            max_tokens=self.max_tokens,
            alias=self.alias,
            dry_run=self.dry_run,
            yes=self.yes,
        )


@click.command(
    cls=Command,
    groups={
        "Data and model": ("validation", "provider", "model", "method", "suffix", "serve_as", "skip_bad_rows"),
        "Hyperparameters": (
            *("epochs", "batch_size", "learning_rate_multiplier", "beta", "seed"),
            *("recipe", "learning_rate", "lora_r", "lora_alpha", "lora_dropout", "target_modules"),
        ),
        "Reinforcement": ("grader", "compute_multiplier", "max_completion_tokens", "eval_interval", "eval_samples"),
        "Memory and speed": ("max_length", "precision", "quantization", "gradient_checkpointing"),
        "Cost and waiting": ("max_cost", "yes", "dry_run", "detach", "timeout", "force_new"),
        "Evaluation and sweeps": ("evaluate", "max_tokens", "auto", "budget_minutes", "sweep", "concurrency", "alias"),
    },
    example="ftpipe train data/support_desk/train.jsonl --validation data/support_desk/validation.jsonl --epochs 3\n"
    "ftpipe train --sweep epochs=1,3 --sweep learning_rate_multiplier=0.5,1,2\n"
    "ftpipe train data/support_desk/train.jsonl --auto --budget-minutes 30",
)
@shared.data
@shared.validation
@shared.provider
@shared.model
@shared.epochs
@click.option("--batch-size", metavar="N", help="Examples per step: 1 to 256, or auto.")
@click.option("--learning-rate-multiplier", metavar="X", help="Factor for the model's default learning rate, or auto.")
@click.option(
    "--beta", metavar="X", help="For dpo and reinforcement: up to 2, higher stays closer to the base; or auto."
)
@shared.recipe
@click.option(
    "--learning-rate",
    metavar="X",
    help="Peak learning rate, above 0 up to 1, instead of the multiplier; local, together, fireworks.",
)
@click.option(
    "--lora-rank", "lora_r", metavar="N", help="Rank of the LoRA adapter: 1 to 512; local, together, fireworks."
)
@click.option("--lora-alpha", metavar="N", help="Scale of the adapter times its rank: 1 to 4096; local or together.")
@click.option("--lora-dropout", metavar="X", help="Dropout of the adapter's inputs: 0 to 0.9; local or together.")
@click.option(
    "--target-modules",
    metavar="NAMES",
    help="Layers that get an adapter, as q_proj,v_proj, or all-linear; local or together.",
)
@click.option("--grader", type=shared.FILE, metavar="FILE", help="Grader (JSON) that scores the sampled answers.")
@click.option(
    "--compute-multiplier", metavar="X", help="Sample X times 8 answers to each prompt, 2 to 64 of them; or auto."
)
@click.option(
    "--max-completion-tokens", metavar="N", help="Most tokens of a sampled answer; local.  [default: 256 at most]"
)
@click.option("--eval-interval", metavar="N", help="Steps between evaluations of the validation file, or auto.")
@click.option("--eval-samples", metavar="N", help="Answers to each validation row in an evaluation, or auto.")
@shared.memory_settings
@click.option(
    "--skip-bad-rows",
    is_flag=True,
    help="Leave out rows that cannot be trained on, and name them in the job's events; for local training.",
)
@click.option("--suffix", metavar="TEXT", help="Part of the tuned model's name.")
@click.option(
    "--serve-as",
    metavar="NAME",
    help="Name the model ft:NAME:… instead of after its real base, for scripts that expect the old name; local only.",
)
@shared.seed
@shared.method
@click.option("--max-cost", metavar="USD", help="Stop if the cost estimate is higher.")
@click.option("-y", "--yes", is_flag=True, help="Spend money without asking.")
@click.option("-n", "--dry-run", is_flag=True, help="Show the plan and stop.")
@shared.detach
@click.option("--force-new", is_flag=True, help="Create a new job even if the same one exists.")
@shared.timeout
@click.option(
    "--auto",
    is_flag=True,
    help="Search learning rate, rank and epochs: train several a little, and the better half further.",
)
@click.option(
    "--budget-minutes",
    type=shared.NumberRange(min=0, min_open=True),
    metavar="N",
    help="Time for --auto; what is being trained when it is up is trained to its end.",
)
@click.option(
    "--sweep",
    multiple=True,
    metavar="KEY=V1,V2",
    help="Train once for each value, for example epochs=1,3. Repeat it to train all combinations.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 64),
    metavar="N",
    default=SweepOptions.concurrency,
    show_default=True,
    help="Maximum concurrent jobs of a sweep or of --auto.",
)
@click.option(
    "--evaluate",
    type=shared.FILE,
    metavar="FILE",
    help="Then compare the tuned models with the base on this test file.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="Maximum completion tokens with --evaluate.  [default: twice the longest expected answer]",
)
@click.option(
    "--alias", metavar="NAME", help="Alias for the best model of a sweep or of --auto.  [default: NAME-OF-DATA@best]"
)
@shared.trust_host
@pass_cli_context
def train(context: CliContext, /, **params: Any) -> None:
    """Train a model on a dataset and register it.

    Without --provider the configured provider is used, else the one that you chose last in this project, else this
    machine, for free. Without DATA the configured dataset is used, as it was prepared if that was done last; if none is
    configured, the dataset that was prepared last. The plan and its cost are shown, and you are asked before money is
    spent. Ctrl-C does not stop the job; `ftpipe resume` continues after any interruption and never pays twice.
    """
    started_at = time.monotonic()
    options = TrainOptions(**params)
    check_evaluation(options)
    check_search(options)
    settings = context.settings(options.as_settings())
    with context.interruptible("interrupted; nothing was sent"):
        request = resolve_for_train(settings, context, data=options.data)
        require_named_provider(settings, request, options)
        require_open_provider(settings, request)
        name = request.data.stem
        spec, report = check_data(context, settings, request, options)
        if options.auto and request.validation is None:
            request = split_for_search(context, request, seed=settings.config.seed or 0)
            spec, report = check_data(context, settings, request, options)
    if options.auto or options.sweep:
        check_memory(context, settings, spec, report)
        if options.auto:
            run_auto(context, settings, spec, report, options.search_options(), name=name)
        else:
            run_sweep(context, settings, spec, report, options.search_options())
        return
    plan = show_plan(context, settings, spec, report)
    if not options.dry_run:
        remember_provider(settings)
        run_training(context, settings, plan, options, started_at=started_at)


def check_data(
    context: CliContext, settings: Settings, request: DatasetRequest, options: TrainOptions
) -> tuple[RunSpec, Report]:
    """Validate and count a dataset, show what is wrong with it, and specify the run.

    Raises:
        DatasetError: The dataset has errors.
    """
    report = validate_and_count(context, settings, request, for_job=True)
    spec = spec_of(settings, request, report, serve_as=options.serve_as)
    if options.skip_bad_rows:
        spec = with_skipped_rows(spec)
    show_findings(context, report, request, skip_bad_rows=spec.hyperparameters.extra.get("skip_bad_rows") is True)
    return spec, report


def require_named_provider(settings: Settings, request: DatasetRequest, options: TrainOptions) -> None:
    """Refuse to pay without a question at a provider that only an earlier command named.

    Raises:
        UsageError: ``--yes`` was given, and the provider costs money and is neither configured nor given.
    """
    from ftpipe.providers.profiles import find_profile

    name = request.provider or LOCAL_PROVIDER
    if options.yes and settings.config.provider is None and find_profile(name, settings.config.providers).paid:
        raise UsageError(
            f"--yes pays only at a provider that is named, and {name} was chosen by an earlier command",
            f"add --provider {name}",
        )


def require_open_provider(settings: Settings, request: DatasetRequest) -> None:
    """Refuse a provider that accepts no new jobs any more, before the data are checked for it.

    Raises:
        TrainingNotAvailableError: Its last day is over.
    """
    from ftpipe.pipeline.preflight import closed_blocker
    from ftpipe.providers.profiles import find_profile

    profile = find_profile(request.provider or LOCAL_PROVIDER, settings.config.providers)
    if closed := closed_blocker(profile, today=datetime.now(UTC).date()):
        raise closed


def check_evaluation(options: TrainOptions) -> None:
    """Check the options of the evaluation before anything is trained.

    Raises:
        UsageError: There is no such test file, or there will be nothing to evaluate.
    """
    if options.evaluate is not None:
        require_dataset(options.evaluate)
        if options.detach:
            raise UsageError(
                "--evaluate and --detach were given, and a job that is still running has no model",
                "leave one of them out, or run `ftpipe evaluate` when the job has ended",
            )
    elif options.max_tokens is not None:
        raise UsageError("--max-tokens needs --evaluate", "add --evaluate FILE, or leave --max-tokens out")


def check_search(options: TrainOptions) -> None:
    """Check the options of a search.

    Raises:
        UsageError: They contradict each other.
    """
    if options.budget_minutes is not None and not options.auto:
        raise UsageError("--budget-minutes needs --auto", "add --auto, or leave --budget-minutes out")
    unusable = {"--detach": options.detach, "--force-new": options.force_new, "--timeout": options.timeout is not None}
    for flag in (flag for flag, is_given in unusable.items() if is_given and options.auto):
        raise UsageError(f"{flag} cannot be used with --auto, which waits for its trials", f"leave {flag} out")


def with_skipped_rows(spec: RunSpec) -> RunSpec:
    """The specification of a run that leaves out rows with errors.

    Raises:
        UsageError: The provider does not do that.
    """
    if spec.provider != LOCAL_PROVIDER:
        raise UsageError(
            f"--skip-bad-rows is for local training, not for {spec.provider}",
            f"`ftpipe prepare {spec.data} --quarantine bad.jsonl` writes a file without the rows that have errors",
        )
    extra = {**spec.hyperparameters.extra, "skip_bad_rows": True}
    return spec.model_copy(update={"hyperparameters": spec.hyperparameters.model_copy(update={"extra": extra})})


def show_findings(context: CliContext, report: Report, request: DatasetRequest, *, skip_bad_rows: bool = False) -> None:
    """Show the report of a dataset with errors and stop; mention warnings, and rows that the job leaves out.

    Raises:
        DatasetError: The report has errors.
    """
    from ftpipe.stages.validate import blocking_errors

    if skip_bad_rows and not report.ok and not blocking_errors(report, skip_bad_rows=True):
        lines = sorted({item.line for item in report.findings if item.severity == "error" and item.line})
        named = ", ".join(map(str, lines[:MAX_NAMED_LINES])) + ", …" * (len(lines) > MAX_NAMED_LINES)
        context.print_status(f"rows with errors are left out: line{'s' if len(lines) > 1 else ''} {named}")
        return
    if not report.ok:
        show(context, report)
    elif report.summary.warnings:
        warnings = plural(report.summary.warnings, "warning")
        context.print_status(f"{warnings} about the data; see `ftpipe prepare {relative_path(request.data)}`")
    can_skip = request.target == LOCAL_PROVIDER and not blocking_errors(report, skip_bad_rows=True)
    alternative = "; --skip-bad-rows trains without the rows that have errors" if can_skip else ""
    require_no_errors(report, request, alternative=alternative)


def show_plan(context: CliContext, settings: Settings, spec: RunSpec, report: Report) -> Plan:
    """Show the plan on stderr, and check that provider and budget allow it.

    Raises:
        UsageError: The provider does not support the request.
        CostLimitError: The estimate is over the budget.
        TrainingNotAvailableError: The provider accepts no new jobs.
        InsufficientMemoryError: It does not fit into the memory of this machine.
    """
    from ftpipe.cli.host_confirmation import provider_title
    from ftpipe.pipeline.preflight import make_plan
    from ftpipe.providers.profiles import find_profile

    profile = find_profile(spec.provider, settings.config.providers)
    today = datetime.now(UTC).date()
    plan = make_plan(spec, report, profile=profile, today=today, max_cost=settings.config.max_cost)
    context.add(plan=plan.spec, dataset=report.dataset, tokens=report.tokens, cost=report.cost)
    title = provider_title(spec.provider, settings, context.environment())
    context.print_status(plan_lines(plan.spec, report, title, context.style_err))
    for number, notice in enumerate(plan.notices):
        context.print_status(f"  {'' if number else 'note':<8}{notice}")
    plan.raise_blocker()
    check_memory(context, settings, plan.spec, plan.report)
    return plan


def check_memory(context: CliContext, settings: Settings, spec: RunSpec, report: Report) -> None:
    """Show the memory and the time that a job on this machine needs.

    Raises:
        InsufficientMemoryError: It does not fit.
    """
    from ftpipe.pipeline.training_estimates import estimate_run, require_memory
    from ftpipe.reports.training_estimate import memory_text, time_text

    estimate = estimate_run(settings, spec, report)
    if estimate is not None:
        context.add(estimate=estimate)
        context.print_status([f"  {'memory':<8}{memory_text(estimate)}", f"  {'time':<8}{time_text(estimate)}"])
        require_memory(estimate)


def check_host(context: CliContext, provider: Provider, spec: RunSpec) -> None:
    """Check a job at a host that publishes its limits, before the question and the upload; nothing is created.

    Raises:
        NotFoundError: The host does not train the base.
        RequestRefusedError: A hyperparameter is outside the limits.
    """
    if provider.profile.api == "openai":  # where the check is a request for a job, made when the run starts
        return
    available = provider.jobs.check_can_create(spec.model, method=spec.method, hyperparameters=spec.hyperparameters)
    if available.notice:
        context.print_status(f"  {'note':<8}{available.notice}")


def run_training(
    context: CliContext, settings: Settings, plan: Plan, options: TrainOptions, *, started_at: float
) -> None:
    """Open the provider, ask for confirmation, and run the pipeline to its end."""
    from ftpipe.cli.output.run import host_of, print_result, run_with_display

    provider = context.provider(plan.spec.provider, settings)
    require_base(provider, plan.spec.model)
    check_host(context, provider, plan.spec)
    if provider.profile.paid and not options.yes:
        context.confirm(f"Pay for this job at {host_of(provider)}: go ahead?")
    if prepare_base(context, provider, plan.spec.model):
        check_memory(context, settings, plan.spec, plan.report)
    pipeline = context.pipeline(provider, context.registry(settings), settings)
    run = pipeline.start(plan, force_new=options.force_new)
    is_trained = run.model is not None
    context.add(already_trained=is_trained)
    run = run_with_display(context, pipeline, run, detach=options.detach, timeout=options.timeout)
    scores = scorer(context, settings, provider, plan.spec, options.evaluate, options.max_tokens)
    if scores is not None and run.model is not None:
        scores([run.model])
    if is_trained and run.model is not None:
        date = format_time(run.model.created_at)
        context.print_status(f"already trained: this is the model of {date}; --force-new trains again")
    print_result(context, provider, run, started_at=None if is_trained else started_at)
