"""``ftpipe leave``: move tuned models from one provider to another host, guided, within a budget, and with a report."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command
from ftpipe.errors import InterruptedRunError, UsageError
from ftpipe.formatting import fit_table, format_money, format_table, plural, sanitize_line
from ftpipe.output_files import open_output

if TYPE_CHECKING:
    from ftpipe.cli.leave_steps import LeaveSteps
    from ftpipe.config import Settings
    from ftpipe.providers.provider import Provider
    from ftpipe.records.inventory import Inventory, InventoryModel
    from ftpipe.records.leave import LeaveModel, LeaveState

DEFAULT_BACKUP = Path("backup")
DEFAULT_MARGIN_POINTS = 5.0
MAX_LISTED_MODELS = 60


@dataclass(frozen=True, kw_only=True)
class LeaveOptions:
    """Options of ``ftpipe leave``."""

    models: tuple[str, ...] = ()
    everything: bool = False
    source: str | None = None
    to: str | None = None
    base: str | None = None
    backup: Path | None = None
    held_out: Path | None = None
    log: Path | None = None
    samples: int | None = None
    margin: float | None = None
    max_cost: str | None = None
    html: Path | None = None
    timeout: float | None = None
    yes: bool = False
    dry_run: bool = False


@click.command(
    cls=Command,
    groups={
        "Models and host": ("everything", "source", "to", "base"),
        "Backup, prompts and gate": ("backup", "held_out", "log", "samples", "margin"),
        "Cost and waiting": ("max_cost", "yes", "dry_run", "timeout", "html"),
    },
    example="ftpipe leave --to local --dry-run\n"
    "ftpipe leave ft:gpt-4o-mini-2024-07-18:acme::AbC123 --to together --held-out test.jsonl --max-cost 20\n"
    "ftpipe leave --all --to fireworks --yes --max-cost 200",
)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--all", "everything", is_flag=True, help="All tuned models that still answer.")
@click.option("--from", "source", metavar="NAME", help="Provider that is left.  [default: openai]")
@click.option("--to", metavar="HOST", help="Where the models are trained again, for example together or local.")
@click.option("--base", metavar="MODEL", help="Base model there.  [default: the best of the proposed ones]")
@click.option("--backup", type=shared.FOLDER, metavar="DIR", help="Folder of the backup.  [default: backup]")
@click.option(
    "--held-out",
    type=shared.FILE,
    metavar="FILE",
    help="Data with correct answers to compare on.  [default: the validation file of each model]",
)
@click.option("--log", type=shared.FILE, metavar="FILE", help="Requests that were sent to the models, to be recorded.")
@click.option(
    "--samples", type=click.IntRange(0, 100), metavar="N", help="Recorded answers beside the greedy one.  [default: 0]"
)
@click.option(
    "--margin",
    type=shared.NumberRange(0, 100),
    metavar="POINTS",
    help="How many points of 100 worse a successor may be for its gate.  [default: 5]",
)
@click.option("--max-cost", metavar="USD", help="Stop if everything together may cost more.")
@click.option("-y", "--yes", is_flag=True, help="Spend money without asking.")
@click.option("-n", "--dry-run", is_flag=True, help="Show the plan with its costs and stop.")
@shared.timeout
@click.option(
    "--html", type=shared.OUTPUT_FILE, metavar="FILE", help="Report.  [default: in the project's state folder]"
)
@shared.trust_host
@pass_cli_context
def leave(context: CliContext, /, **params: Any) -> None:
    """Move MODEL, or several, away from a provider: back up, record, retrain elsewhere, compare, cut over.

    The models are listed with their dates and saved in a folder, which costs nothing. Then the plan is shown: for each
    model the new base, the hyperparameters, the recording and all costs; you are asked before anything is paid. Answers
    are recorded, the successors are trained and compared, and a name moves only if the gate passes. A report says what
    was done, what it cost, and what to do when.

    Run the same command again after any interruption: what is done is not done or paid again. `ftpipe models
    inventory`, `models backup`, `models record` and `models migrate` do the same steps one by one.
    """
    options = LeaveOptions(**params)
    hint = "run the same command again; it continues from there"
    with context.interruptible("interrupted; what was done and paid is saved", hint), ExitStack() as stack:
        steps = prepare(context, options)
        if options.dry_run and not (steps.backup / "manifest.jsonl").exists():
            steps.backup = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ftpipe-leave-")))
        steps.back_up()
        steps.plan()
        show_plan(context, steps.state)
        if options.dry_run:
            steps.state = steps.state.with_files_in(steps.backup)
        else:
            pay(context, steps, options)
            steps.run()
        finish(context, steps.state, options)


def prepare(context: CliContext, options: LeaveOptions) -> LeaveSteps:
    """Take the inventory, and choose models and host: from the options, from an earlier call, or by asking."""
    from ftpipe.cli.commands.models_inventory import DEFAULT_PROVIDER, take_inventory
    from ftpipe.cli.leave_steps import LeaveSteps
    from ftpipe.migration.leave import latest_provider, load_state, save_state

    settings = context.settings({"provider": options.source, "max_cost": options.max_cost})
    goes_on = not (options.models or options.everything or options.to)
    source = options.source or (latest_provider() if goes_on else None) or DEFAULT_PROVIDER
    inventory = take_inventory(context, source)
    provider = context.provider(source, settings)
    known = load_state(provider.endpoint)
    chosen = choose(context, options, inventory, known)
    host = options.to or (known.to if known else "") or ask_host(context, inventory, chosen)
    context.provider(host, context.settings({"provider": host}))  # its key and address are checked before anything else
    state = new_state(options, settings, provider, inventory, chosen, host, known)
    if not options.dry_run:
        save_state(state)
    return LeaveSteps(
        context,
        provider,
        context.registry(settings),
        state,
        state.backup,
        is_dry_run=options.dry_run,
        timeout=options.timeout,
    )


def new_state(
    options: LeaveOptions,
    settings: Settings,
    provider: Provider,
    inventory: Inventory,
    chosen: list[InventoryModel],
    host: str,
    known: LeaveState | None,
) -> LeaveState:
    """The state to begin with: that of an earlier call, with what the options change."""
    from ftpipe.migration.leave import as_leave_model
    from ftpipe.records.leave import LeaveState

    base = options.base or (known.base if known and known.to == host else None)
    is_same = known is not None and (known.to, known.base) == (host, base)
    earlier = {one.model: one for one in known.models} if known is not None and is_same else {}
    names = {model.id for model in chosen}
    return LeaveState(
        created_at=known.created_at if known else int(time.time()),
        updated_at=int(time.time()),
        provider=provider.profile.name,
        title=inventory.title,
        endpoint=provider.endpoint,
        last_day_to_create=inventory.last_day_to_create,
        to=host,
        base=base,
        backup=(options.backup or (known.backup if known else DEFAULT_BACKUP)).absolute(),
        held_out=absolute(options.held_out) or (known.held_out if known else None),
        log=absolute(options.log) or (known.log if known else None),
        samples=options.samples if options.samples is not None else known.samples if known else 0,
        margin=options.margin if options.margin is not None else known.margin if known else DEFAULT_MARGIN_POINTS,
        max_cost=settings.config.max_cost
        if settings.config.max_cost is not None
        else known.max_cost
        if known
        else None,
        models=tuple(as_leave_model(model, earlier.get(model.id)) for model in chosen),
        staying=tuple(model.id for model in inventory.models if model.id not in names),
    )


def absolute(path: Path | None) -> Path | None:
    """The path from the root, so that a later call in another folder finds it."""
    return path.absolute() if path is not None else None


def choose(
    context: CliContext, options: LeaveOptions, inventory: Inventory, known: LeaveState | None
) -> list[InventoryModel]:
    """The models that move.

    Raises:
        UsageError: There are none, or several and nothing says which.
    """
    from ftpipe.migration.leave import choose_models, movable_models

    if options.models and options.everything:
        raise UsageError("--all means all models", "name models, or give --all")
    if options.models:
        return choose_models(inventory, options.models)
    movable = movable_models(inventory)
    if options.everything or len(movable) == 1:
        return movable
    if known is not None and known.models:
        return choose_models(inventory, [one.model for one in known.models])
    if not movable:
        raise UsageError(
            f"no tuned model answers at {inventory.title}",
            "`ftpipe models inventory` shows all of them; name one whose data you want to train again",
        )
    hint = "name models, or add --all"
    if not context.can_ask:
        raise UsageError(f"{plural(len(movable), 'model')} can move, and there is no terminal to ask which", hint)
    context.print_status(f"{plural(len(movable), 'model')} can move:")
    rows = [
        (
            f"  {number}",
            sanitize_line(model.id, 100),
            model.shutdown_date or "",
            f"{model.days_left} days" if model.days_left is not None else "",
        )
        for number, model in enumerate(movable[:MAX_LISTED_MODELS], start=1)
    ]
    context.print_status(format_table(rows, right=(0, 3)))
    answer = ask("Which? Numbers, or all (Enter stops)", default="")
    return [movable[number - 1] for number in parse_numbers(answer, len(movable), hint)]


def parse_numbers(answer: str, count: int, hint: str) -> list[int]:
    """The numbers of an answer such as ``1,3`` or ``all``.

    Raises:
        UsageError: It is something else.
    """
    if answer.strip().lower() == "all":
        return list(range(1, count + 1))
    words = answer.replace(",", " ").split()
    numbers = [int(word) for word in words if word.isdecimal() and 1 <= int(word) <= count]
    if not words or len(numbers) != len(words):
        raise UsageError(
            "no model was chosen: nothing was done" if not words else f"{answer[:60]!r} is not a choice", hint
        )
    return list(dict.fromkeys(numbers))


def ask_host(context: CliContext, inventory: Inventory, chosen: list[InventoryModel]) -> str:
    """Ask where to, with what training there costs.

    Raises:
        UsageError: There is no terminal to ask.
    """
    costs: dict[str, list[float]] = {"local": []}
    for model in chosen:
        for one in model.retraining:
            if one.provider != inventory.provider:
                costs.setdefault(one.provider, []).append(one.cost)
    if not context.can_ask:
        raise UsageError(
            "no host was named, and there is no terminal to ask", f"add --to with one of {', '.join(sorted(costs))}"
        )
    context.print_status("Training these models again costs about:")
    rows = [
        (f"  {name}", format_money(sum(amounts)) if len(amounts) == len(chosen) else "free" if name == "local" else "?")
        for name, amounts in costs.items()
    ]
    context.print_status(format_table(rows, right=(1,)))
    host = ask("Which host?", default="local").strip()
    if host not in costs:
        raise UsageError(f"{host[:60]!r} is not one of the hosts", "give it with --to if it is one of ftpipe.toml")
    return host


def ask(question: str, *, default: str) -> str:
    """Ask on the terminal.

    Raises:
        InterruptedRunError: Ctrl-C was pressed.
    """
    try:
        return str(click.prompt(question, default=default, show_default=bool(default), err=True))
    except click.Abort as exc:
        raise InterruptedRunError("interrupted; nothing was paid", "run the same command again") from exc


def show_plan(context: CliContext, state: LeaveState) -> None:
    """Write the models with their costs."""
    context.add(state=state, highest_cost=state.highest_cost)
    rows: list[tuple[str, ...]] = [("model", "to", "recording", "training", "comparison", "state")]
    rows += [
        (
            sanitize_line(one.model, 60),
            sanitize_line(one.new_base or state.to, 40),
            *cost_cells(one, state.currency),
            "needs a decision" if one.problem else one.stage.value,
        )
        for one in state.models
    ]
    context.print_result(fit_table(rows, width=context.width, right=(2, 3, 4), style=context.style))
    context.print_result(
        f"at most {format_money(state.highest_cost, state.currency)} more, "
        f"{format_money(state.spent, state.currency)} spent"
    )
    if any(one.is_planned_later for one in state.open_models):
        context.print_status("what is planned after recording is checked against --max-cost before it is paid")


def cost_cells(one: LeaveModel, currency: str) -> list[str]:
    """The highest costs of recording, training and comparison of a model."""
    if one.problem:
        return ["–", "–", "–"]
    later = ["after recording"] * 2
    costs = [format_money(cost, currency) for cost in (one.recording_cost, one.training_cost, one.comparison_cost)]
    return [costs[0], *(later if one.is_planned_later else costs[1:])]


def pay(context: CliContext, steps: LeaveSteps, options: LeaveOptions) -> None:
    """Keep the budget, and ask before anything is paid.

    Raises:
        CostLimitError: The move may cost more than the limit.
        UsageError: There is no terminal to ask, or the answer was no.
    """
    from ftpipe.migration.leave import check_budget

    check_budget(steps.state)
    if not steps.state.open_models or options.yes or steps.state.highest_cost == 0:
        return
    amount = format_money(steps.state.highest_cost, steps.state.currency)
    context.confirm(f"Record, train and compare for at most {amount}?")


def finish(context: CliContext, state: LeaveState, options: LeaveOptions) -> None:
    """Write the report, and say how to cut over and back."""
    from ftpipe.migration.leave import state_path
    from ftpipe.records.leave import LeaveStage
    from ftpipe.reports.leave import headline, leave_html

    state = state.model_copy(update={"updated_at": int(time.time())})
    context.add(state=state)
    page = leave_html(state, today=datetime.now(UTC).date())
    path = options.html or state_path(state.endpoint).with_suffix(".html")
    is_own = options.html is None  # the report in the state folder is written again by each call
    if not (options.dry_run and options.html is None):
        with open_output(path, force=context.force or is_own, flag="--html") as file:
            file.write(page.encode())
        context.add(report=path)
        context.print_status(f"report: {sanitize_line(path, 300)}")
    if options.dry_run:
        if state.open_models:
            context.print_next("the same command without --dry-run")
        return
    context.print_result(headline(state))
    for one in state.models:
        show_model(context, one)
    failed = [one for one in state.models if one.problem or one.stage is LeaveStage.REJECTED]
    context.exit_code = 1 if failed else 0
    if any(one.stage is LeaveStage.MOVED for one in state.models):
        context.print_next("ftpipe serve --aliases   answers under the old names; programs change base_url and key")


def show_model(context: CliContext, one: LeaveModel) -> None:
    """Write how far a model is."""
    from ftpipe.reports.leave import stage_text

    successor = f" → {sanitize_line(one.new_model, 200)}" if one.new_model else ""
    context.print_result(f"  {sanitize_line(one.model, 200)}{successor}")
    context.print_result(f"    {sanitize_line(stage_text(one), 500)}")
    if one.hint:
        context.print_status(f"    {sanitize_line(one.hint, 500)}")
