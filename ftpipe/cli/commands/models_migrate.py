"""``ftpipe models migrate``: retrain a model at another host, compare the two, and move its aliases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command
from ftpipe.config import Settings
from ftpipe.errors import GateFailedError, UsageError

if TYPE_CHECKING:
    from ftpipe.migration.migrate import MigrationPlan, MigrationRequest, Migrator
    from ftpipe.providers.provider import Provider
    from ftpipe.records import Model, Run
    from ftpipe.records.evaluation import Evaluation, TokenPrice
    from ftpipe.records.migration import Migration

DEPLOYMENT_NOTE = (
    "the new model is deployed until it is compared; you are asked with the price per hour when it is trained"
)
DEFAULT_SOURCE = "openai"
"""Provider of a model that the registry does not know."""


@dataclass(frozen=True, kw_only=True)
class MigrateOptions:
    """Options of ``ftpipe models migrate``."""

    model: str
    to: str | None = None
    source: str | None = None
    base: str | None = None
    data: Path | None = None
    validation: Path | None = None
    backup: Path | None = None
    distill: Path | None = None
    held_out: Path | None = None
    recording: Path | None = None
    margin: float = 5.0
    """In points of the metric, of 100."""
    confidence: float = 95.0
    """In percent."""
    aliases: tuple[str, ...] = ()
    epochs: int | None = None
    learning_rate: float | None = None
    suffix: str | None = None
    seed: int | None = None
    max_cost: str | None = None
    yes: bool = False
    dry_run: bool = False
    rollback: bool = False
    timeout: float | None = None
    deployment: str | None = None


@click.command(
    cls=Command,
    groups={
        "Where to": ("to", "source", "base", "epochs", "learning_rate", "suffix", "seed"),
        "Training data": ("data", "validation", "backup", "distill"),
        "Comparison and gate": (
            *("held_out", "recording", "margin", "confidence", "deployment", "aliases", "rollback"),
        ),
        "Cost and waiting": ("max_cost", "yes", "dry_run", "timeout"),
    },
    example="ftpipe models record ft:gpt-4o-mini-2024-07-18:acme::1 --prompts test.jsonl --output answers.jsonl\n"
    "ftpipe models migrate ft:gpt-4o-mini-2024-07-18:acme::1 --to together --recording answers.jsonl --dry-run\n"
    "ftpipe models migrate ft:gpt-4o-mini-2024-07-18:acme::1 --to local --held-out test.jsonl\n"
    "ftpipe models migrate --rollback ft:gpt-4o-mini-2024-07-18:acme::1",
)
@click.argument("model")
@click.option("--to", metavar="HOST", help="Provider where the new model is trained, for example together or local.")
@click.option("--from", "source", metavar="NAME", help="Provider of MODEL.  [default: from the registry, or openai]")
@click.option("--base", metavar="MODEL", help="Base model there.  [default: the best of the proposed ones]")
@click.option(
    "--data", type=shared.FILE, metavar="FILE", help="Training data.  [default: that of MODEL, from here or its host]"
)
@shared.validation
@click.option(
    "--backup",
    type=shared.FOLDER,
    metavar="DIR",
    help="Take the training data of MODEL from this folder of `ftpipe models backup`.",
)
@click.option(
    "--distill",
    type=shared.FILE,
    metavar="FILE",
    help="Train on the recorded answers of MODEL in this file, in place of its training data.",
)
@click.option(
    "--held-out", type=shared.FILE, metavar="FILE", help="Data with correct answers that no model was trained on."
)
@click.option(
    "--recording", type=shared.FILE, metavar="FILE", help="Recorded answers of MODEL, from `ftpipe models record`."
)
@click.option(
    "--margin",
    type=shared.NumberRange(0, 100),
    metavar="POINTS",
    default=MigrateOptions.margin,
    show_default=True,
    help="How many points of 100 worse the new model may be for the gate.",
)
@click.option(
    "--confidence",
    type=shared.NumberRange(50, 99.9),
    metavar="X",
    default=MigrateOptions.confidence,
    show_default=True,
    help="Confidence level in percent.",
)
@click.option(
    "--deployment",
    metavar="NAME",
    help="Name of the deployment that you have made of the new model, where ftpipe makes none, as at azure.",
)
@click.option("--alias", "aliases", multiple=True, metavar="NAME", help="Another alias for the new model. Repeatable.")
@click.option(
    "--epochs", type=click.IntRange(1, 50), metavar="N", help="Passes over the data.  [default: as for MODEL]"
)
@click.option(
    "--learning-rate",
    type=shared.NumberRange(0, 1, min_open=True),
    metavar="X",
    help="Peak learning rate, where the host takes one.  [default: the nearest to that of MODEL]",
)
@click.option("--suffix", metavar="TEXT", help="Part of the new model's name.  [default: that of MODEL]")
@click.option("--seed", type=click.IntRange(0, 2147483647), metavar="N", help="Random seed.  [default: that of MODEL]")
@click.option("--max-cost", metavar="USD", help="Stop if job and comparison may cost more.")
@click.option("-y", "--yes", is_flag=True, help="Spend money without asking.")
@click.option("-n", "--dry-run", is_flag=True, help="Show the plan and stop.")
@click.option("--rollback", is_flag=True, help="Point the aliases of MODEL back at it; both models stay.")
@shared.timeout
@shared.trust_host
@pass_cli_context
def migrate(context: CliContext, /, **params: Any) -> None:
    """Move MODEL to another host: retrain it there, compare both, and move its aliases if the gate passes.

    The base is proposed by what the data needs, by size and by price; the hyperparameters are translated, and each is
    shown. The new model is compared with MODEL on prompts that neither was trained on. The aliases of MODEL, and its
    name as an alias for `ftpipe serve`, move only if the new one is not worse by more than --margin; --rollback moves
    them back. Run the same command again after any interruption: no job and no answer is paid twice.
    """
    options = MigrateOptions(**params)
    if options.rollback:
        roll_back(context, options)
        return
    if options.to is None:
        raise UsageError("no host was named", "add --to together, fireworks, nebius, azure or local")
    migration = migrate_model(context, options)
    if migration is not None:
        require_passed(migration)


def roll_back(context: CliContext, options: MigrateOptions) -> None:
    """Point the aliases of a migration back at the old model."""
    from ftpipe.migration import migrate as stage
    from ftpipe.migration.migration_file import find_migration
    from ftpipe.reports.migration import result_lines

    registry = context.registry()
    migration = find_migration(registry_name(context, options.model))
    migration = stage.roll_back(migration, registry)
    context.add(migration=migration)
    context.print_result(result_lines(migration.model_copy(update={"comparisons": ()}), context.style))


def registry_name(context: CliContext, name: str) -> str:
    """The id of a model by its name, alias or job; the name itself if the registry does not know it."""
    try:
        return context.registry().models.get(name).id
    except UsageError:
        return name


def migrate_model(context: CliContext, options: MigrateOptions) -> Migration | None:
    """Plan, retrain, compare, and move the aliases; ``None`` after a dry run.

    Raises:
        FtpipeError: With what can be done; the same call continues.
    """
    from ftpipe.cli.migration_comparison import compare
    from ftpipe.migration.migration_file import save_migration
    from ftpipe.records.migration import MigrationState

    settings = context.settings({"provider": options.to, "max_cost": options.max_cost})
    with context.interruptible(
        "interrupted; nothing was sent to the new host", "run the same command again to continue"
    ):
        migrator = make_migrator(context, settings, options)
        plan = migrator.plan(request_of(settings, options))
    show_plan(context, migrator, plan)
    plan.raise_blocker()
    if options.dry_run:
        return None
    save_migration(plan.migration)
    with context.interruptible("interrupted; what was paid is saved", "run the same command again to continue"):
        run = train(context, migrator, plan, options)
        if run.model is None:
            raise UsageError(f"{run.id} has no model yet", f"wait for it with `ftpipe resume {run.id}`")
        migration = save_migration(
            plan.migration.model_copy(
                update={"run_id": run.id, "new_model": run.model.id, "state": MigrationState.TRAINED}
            )
        )
        results, migration = compare(
            context, migrator, plan, migration, run.model, deployment=options.deployment, yes=options.yes
        )
        migration = migrator.finish(plan, migration, run.model, results)
    show_result(context, migration, [evaluation for evaluation, _ in results], plan.old, run.model)
    return migration


def make_migrator(context: CliContext, settings: Settings, options: MigrateOptions) -> Migrator:
    """Find the model, and open the new host.

    Raises:
        UsageError: There is no such model, or it is at that host already.
    """
    from ftpipe.catalog.inference_prices import answer_price
    from ftpipe.catalog.training_prices import PriceTable
    from ftpipe.migration.migrate import Migrator
    from ftpipe.migration.source_model import find_model
    from ftpipe.providers.profiles import find_profile
    from ftpipe.records.evaluation import TokenPrice

    registry = context.registry(settings)
    opened: dict[str, Provider] = {}

    def open_source(name: str) -> Provider:
        if name not in opened:
            opened[name] = context.provider(name, settings)
        return opened[name]

    old = find_model(
        options.model, registry=registry, open_provider=lambda: open_source(options.source or DEFAULT_SOURCE)
    )
    source = find_profile(options.source or old.provider, settings.config.providers)
    target = context.provider(options.to or "", settings)
    if target.endpoint == old.endpoint and options.base is None:
        raise UsageError(
            f"{old.id} is at {target.profile.title or target.profile.name} already",
            "name another host with --to, or another base model there with --base",
        )

    def price_of(base: str) -> TokenPrice | None:
        if target.profile.deployments:  # billed by the hour, which is asked for when the model is trained
            return TokenPrice(model=base, input=0, output=0, source="billed by the hour")
        return answer_price(target.profile.target, base, "tuned")

    return Migrator(
        old=old,
        source_target=source.target,
        open_source=lambda: open_source(source.name),
        pipeline=context.pipeline(target, registry),
        prices=PriceTable.load(settings.config.prices, target=target.profile.target),
        answer_prices=(answer_price(source.target, old.base, "tuned"), price_of),
    )


def request_of(settings: Settings, options: MigrateOptions) -> MigrationRequest:
    """What is requested, with the files that the options name.

    Raises:
        UsageError: There is no such file.
        DatasetError: The recording is damaged.
    """
    from ftpipe.cli.dataset_request import require_dataset
    from ftpipe.migration.migrate import MigrationRequest
    from ftpipe.migration.recording import read_recording
    from ftpipe.migration.source_model import TrainingData
    from ftpipe.records.migration import TrainingSource

    named = [name for name in ("data", "backup", "distill") if getattr(options, name) is not None]
    if len(named) > 1:
        both = " and ".join(f"--{name}" for name in named)
        raise UsageError(f"{both} each name what is trained on", "leave all but one of them out")
    recorded = options.recording or options.distill
    for path in (options.data, options.validation, options.held_out):
        if path is not None:
            require_dataset(path)
    training = None
    if options.data is not None:
        validation = options.validation.absolute() if options.validation else None
        training = TrainingData(options.data.absolute(), validation, TrainingSource.FILE)
    elif options.validation is not None:
        raise UsageError("--validation needs --data", "name the training data, too, or leave --validation out")
    return MigrationRequest(
        base=options.base,
        training=training,
        backup=options.backup,
        distill=options.distill,
        held_out=options.held_out,
        recording=read_recording(recorded) if recorded else None,
        margin=options.margin / 100,
        confidence=options.confidence / 100,
        aliases=options.aliases,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        suffix=options.suffix,
        seed=options.seed,
        max_cost=settings.config.max_cost,
    )


def show_plan(context: CliContext, migrator: Migrator, plan: MigrationPlan) -> None:
    """Show what will be done, what it costs, and what the gate is."""
    from ftpipe.formatting import format_money, plural, relative_path, sanitize_line
    from ftpipe.migration.equivalence import MIN_ITEMS
    from ftpipe.reports import migration as report
    from ftpipe.reports.runs import plan_lines

    profile = migrator.pipeline.provider.profile
    migration, prompts = plan.migration, plan.prompts
    context.add(
        migration=migration,
        proposals=plan.proposals,
        base=plan.proposal,
        task=plan.task,
        plan=plan.plan.spec,
        cost=plan.plan.cost,
        comparison={
            "prompts": prompts.size,
            "old_requests": len(prompts.missing),
            "highest_cost": plan.comparison_cost,
        },
    )
    old, title = plan.old, profile.title or profile.name
    backup, data = plan.request.backup, migration.data
    if backup is not None and data.is_relative_to(backup.absolute()):
        data = data.relative_to(backup.absolute())
    lines = [
        f"{sanitize_line(old.id, 200)} at {sanitize_line(old.provider, 40)} → {sanitize_line(title, 80)}",
        f"  data    {sanitize_line(relative_path(data), 200)}, {report.SOURCES[migration.data_source]}: "
        f"{report.task_text(plan.task)}",
        *report.proposal_lines(plan.proposals, plan.proposal, context.style_err),
        *report.change_lines(migration.changes, context.style_err),
        *plan_lines(plan.plan.spec, plan.plan.report, title, context.style_err),
    ]
    asked = (
        f"{plural(prompts.size, 'prompt')} to the new model, {plural(len(prompts.missing), 'prompt')} to the old one"
    )
    cost = "cost not known" if plan.comparison_cost is None else f"up to {format_money(plan.comparison_cost)}"
    cost = "free" if plan.comparison_cost == 0 else cost
    cost += ", and the deployment by the hour" if profile.deployments else ""
    lines += [f"  compare {asked}, {cost}", f"  gate    {report.gate_text(migration.margin, plan.request.confidence)}"]
    lines += [f"  note    {plan.note}"] if plan.note else []
    fewest = min((size for size in (len(prompts.items), len(prompts.agreement)) if size), default=0)
    if fewest < MIN_ITEMS:
        lines.append(f"  note    the gate cannot pass: it needs {MIN_ITEMS} prompts, and has {fewest}")
    lines += [f"  note    {DEPLOYMENT_NOTE}"] if profile.deployments else []
    lines += [f"  note    {notice}" for notice in plan.plan.notices]
    context.print_status(lines)


def train(context: CliContext, migrator: Migrator, plan: MigrationPlan, options: MigrateOptions) -> Run:
    """Ask before money is spent, and run the pipeline; a run that has ended is not started again."""
    from ftpipe.cli.base_downloads import prepare_base, require_base
    from ftpipe.cli.output.run import host_of, run_with_display

    provider = migrator.pipeline.provider
    require_base(provider, plan.plan.spec.model)
    costs = provider.profile.paid or bool(plan.prompts.missing and plan.comparison_cost != 0)
    if costs and not options.yes:
        context.confirm(f"Pay for the job and the answers at {host_of(provider)}: go ahead?")
    prepare_base(context, provider, plan.plan.spec.model)
    run = migrator.pipeline.start(plan.plan)
    return run_with_display(context, migrator.pipeline, run, detach=False, timeout=options.timeout)


def show_result(
    context: CliContext, migration: Migration, evaluations: list[Evaluation], old: Model, new: Model
) -> None:
    """Show the comparisons and what became of the aliases, and write the pages of the evaluations."""
    from ftpipe.cli.commands.evaluate import write_files
    from ftpipe.paths import EVALUATIONS_FOLDER, state_dir
    from ftpipe.records.migration import MigrationState
    from ftpipe.reports.evaluation.html import PageContext, to_html
    from ftpipe.reports.migration import result_lines

    pages: list[Path] = []
    for evaluation in evaluations:
        folder = state_dir() / EVALUATIONS_FOLDER
        files = {"json": folder / f"{evaluation.id}.json", "html": folder / f"{evaluation.id}.html"}
        page = to_html(evaluation, PageContext({old.id: old, new.id: new}, {}))
        write_files(files, {"json": evaluation.model_dump_json(), "html": page}, force=True)
        pages.append(files["html"])
    context.add(migration=migration, reports=pages)
    context.print_result(result_lines(migration, context.style))
    context.print_status([f"report: {page}" for page in pages])
    if migration.state is MigrationState.MOVED:
        context.print_next(f"ftpipe serve   or, to undo it, ftpipe models migrate --rollback {migration.old_model}")


def require_passed(migration: Migration) -> None:
    """Raise if a gate failed.

    Raises:
        GateFailedError: With the first gate that failed.
    """
    failed = [one for one in migration.comparisons if not one.gate.passed]
    if failed:
        raise GateFailedError(
            f"no alias was moved: {failed[0].gate.explanation}",
            f"{migration.new_model} is registered; compare on more prompts, train it longer or on a larger --base, or "
            "allow more with --margin",
        )
