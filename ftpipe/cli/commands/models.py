"""``ftpipe models``: the registered models, what each came from, and the names that point at them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import click

from ftpipe.cli import options
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command, Group
from ftpipe.errors import LocalStateError, NotFoundError, UsageError
from ftpipe.formatting import format_table, format_time, sanitize_line
from ftpipe.paths import models_dir, server_dir
from ftpipe.records import Model
from ftpipe.reports.evaluation.terminal import comparison_lines
from ftpipe.reports.models import lineage_lines, model_table


def export_local(model: Model, output: Path | None, *, merged: bool, say: Callable[[str], None]) -> Path:
    """Write a model to a folder.

    Args:
        model: From the registry; it was trained by the embedded endpoint.
        output: The folder; by default one in the working folder, named after the model.
        merged: Whole weights instead of the adapter.
        say: Hears what takes long.

    Raises:
        UsageError: The model lives at a hosted endpoint, which gives no weights.
        NotFoundError: The endpoint's data folder does not hold it any more.
    """
    if model.provider != "local":
        raise UsageError(
            f"{model.id} lives at {model.provider}, which gives no weights away",
            "models trained with --provider local can be exported",
        )
    base, adapter = _weights(model)
    folder = output or Path(re.sub(r"[^A-Za-z0-9._-]+", "-", model.id).strip("-.")[:100])
    from ftpipe.modeling.export import export_model

    say(f"writing {'merged weights' if merged else 'the adapter'} to {sanitize_line(folder, 300)}")
    return export_model(base=base, adapter=adapter, output=folder, merged=merged, models_dir=models_dir())


def _weights(model: Model) -> tuple[str, Path]:
    """The base's name and the adapter of the last step."""
    from ftpipe.server.storage.data_dir import DataDirectory

    directory = DataDirectory(server_dir()).job(model.job_id)
    try:
        base_model = directory.read_spec().base_model
    except LocalStateError as error:
        raise _weights_not_found(model, directory.path) from error
    result = directory.read_result()
    if result is None or result.final_step is None:
        raise _weights_not_found(model, directory.path)
    return base_model, directory.checkpoint_dir(result.final_step)


def _weights_not_found(model: Model, path: Path) -> NotFoundError:
    return NotFoundError(
        f"the weights of {model.id} are not in {path}", "set FTPIPE_HOME to where it was trained, or train again"
    )


models = Group(
    name="models",
    help="The registered models, what each came from, and their aliases.",
    lazy={
        "list": ("ftpipe.cli.commands.models:list_models", "All models, newest first."),
        "show": ("ftpipe.cli.commands.models:show_model", "One model: data, file, job, cost, metrics, checkpoints."),
        "compare": (
            "ftpipe.cli.commands.models:compare",
            "Two models side by side, and who was better in evaluations.",
        ),
        "verify": (
            "ftpipe.cli.commands.models_verify:verify",
            "Whether models and their weights are as ftpipe wrote them.",
        ),
        "alias": ("ftpipe.cli.commands.models:alias", "Point a name at a model, or see where it pointed."),
        "export": ("ftpipe.cli.commands.models:export", "Write a model trained here as a folder for other tools."),
    },
    example="ftpipe models list\nftpipe models alias support-bot@production ft:…",
)


@click.command("list", cls=Command, example="ftpipe models list --json")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many, newest first.")
@pass_cli_context
def list_models(context: CliContext, limit: int) -> None:
    """List the registered models, newest first."""
    registry = context.registry()
    found = registry.models.recent(limit)
    context.add(models=found)
    context.print_result(model_table(found, context.style) if found else [])
    if not found:
        context.print_status(f"no model is registered in {registry.location}; `ftpipe train` makes one")


@click.command("show", cls=Command, example="ftpipe models show support-bot@production")
@click.argument("model")
@pass_cli_context
def show_model(context: CliContext, model: str) -> None:
    """Show MODEL (its name, an alias or its job id) and everything that it came from."""
    registry = context.registry()
    found = registry.models.get(model)
    judged = registry.evaluations.recent(found.id)
    context.add(model=found, evaluations=judged)
    context.print_result([*lineage_lines(found, context.style), *comparison_lines(judged, [found.id], context.style)])


@click.command(cls=Command, example="ftpipe models alias support-bot@production ft:… --reason 'fewer wrong labels'")
@click.argument("name", required=False)
@click.argument("model", required=False)
@click.option("--reason", default="", metavar="TEXT", help="Why it is moved, for the history.")
@pass_cli_context
def alias(context: CliContext, name: str | None, model: str | None, reason: str) -> None:
    """Point NAME at MODEL. Without MODEL show where NAME has pointed; without NAME list all aliases."""
    registry = context.registry()
    if name and model:
        found = registry.models.set_alias(name, model, reason=reason)
        context.add(alias=name, model=found)
        context.print_result(f"{sanitize_line(name, 100)} → {sanitize_line(found.id, 200)}")
    elif name:
        moves = registry.models.alias_history(name)
        context.add(alias=name, history=moves)
        context.print_result(
            format_table(
                (format_time(int(m.moved_at)), sanitize_line(m.to_model, 120), sanitize_line(m.reason, 200))
                for m in moves
            )
        )
    else:
        names = registry.models.aliases()
        context.add(aliases=names)
        context.print_result(
            format_table((sanitize_line(key, 100), "→", sanitize_line(value, 200)) for key, value in names.items())
        )


@click.command(cls=Command, example="ftpipe models export support-bot@production --output export/ --merged")
@click.argument("model")
@options.output
@click.option("--merged", is_flag=True, help="Whole weights for vLLM, Ollama or transformers, not the adapter alone.")
@pass_cli_context
def export(context: CliContext, model: str, output: Path | None, merged: bool) -> None:
    """Write MODEL, trained on this machine, as safetensors into a folder."""
    pass

    found = context.registry().models.get(model)
    folder = export_local(found, output, merged=merged, say=context.print_status)
    context.add(model=found.id, folder=folder, merged=merged)
    context.print_result(str(folder))


@click.command(cls=Command, example="ftpipe models compare support-bot@production ft:…")
@click.argument("first")
@click.argument("second")
@pass_cli_context
def compare(context: CliContext, first: str, second: str) -> None:
    """Show where FIRST and SECOND differ, and who was better where both were evaluated."""
    from ftpipe.reports.evaluation.terminal import comparison_lines
    from ftpipe.reports.models import difference_lines

    registry = context.registry()
    one, other = registry.models.get(first), registry.models.get(second)
    # a checkpoint answers under its own name, and is judged under it
    sides = [
        name if name in {checkpoint.model for checkpoint in model.checkpoints} else model.id
        for name, model in ((first, one), (second, other))
    ]
    judged = registry.evaluations.recent(*sides)
    context.add(models=[one, other], evaluations=judged)
    context.print_result(difference_lines(one, other, context.style))
    context.print_result(comparison_lines(judged, sides, context.style))
    if not judged:
        context.print_status(
            f"no evaluation has both; ftpipe evaluate {second} --against {first} --data FILE makes one"
        )
