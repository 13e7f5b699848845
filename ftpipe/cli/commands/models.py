"""``ftpipe models``: the registered models, what each came from, and the names that point at them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import click

from ftpipe.cli import options
from ftpipe.cli.context import CliContext, pass_session
from ftpipe.cli.group import Command, Group
from ftpipe.errors import NotFoundError, UsageError
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

    layout = DataDirectory(server_dir())
    folder = layout.job(model.job_id)
    try:
        base = str(json.loads((folder / "spec.json").read_text(encoding="utf-8"))["base"])
        step = int(json.loads((folder / "result.json").read_text(encoding="utf-8"))["final_step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotFoundError(
            f"the weights of {model.id} are not in {folder}", "set FTPIPE_HOME to where it was trained, or train again"
        ) from error
    return base, layout.checkpoint(model.job_id, step)


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
@pass_session
def list_models(session: CliContext, limit: int) -> None:
    """List the registered models, newest first."""
    registry = session.registry()
    found = registry.models(limit)
    session.add(models=found)
    session.print_result(model_table(found, session.style) if found else [])
    if not found:
        session.print_status(f"no model is registered in {registry.place}; `ftpipe train` makes one")


@click.command("show", cls=Command, example="ftpipe models show support-bot@production")
@click.argument("model")
@pass_session
def show_model(session: CliContext, model: str) -> None:
    """Show MODEL (its name, an alias or its job id) and everything that it came from."""
    registry = session.registry()
    found = registry.model(model)
    judged = registry.evaluations(found.id)
    session.add(model=found, evaluations=judged)
    session.print_result([*lineage_lines(found, session.style), *comparison_lines(judged, [found.id], session.style)])


@click.command(cls=Command, example="ftpipe models alias support-bot@production ft:… --reason 'fewer wrong labels'")
@click.argument("name", required=False)
@click.argument("model", required=False)
@click.option("--reason", default="", metavar="TEXT", help="Why it is moved, for the history.")
@pass_session
def alias(session: CliContext, name: str | None, model: str | None, reason: str) -> None:
    """Point NAME at MODEL. Without MODEL show where NAME has pointed; without NAME list all aliases."""
    registry = session.registry()
    if name and model:
        found = registry.alias(name, model, reason=reason)
        session.add(alias=name, model=found)
        session.print_result(f"{sanitize_line(name, 100)} → {sanitize_line(found.id, 200)}")
    elif name:
        moves = registry.alias_history(name)
        session.add(alias=name, history=moves)
        session.print_result(
            format_table(
                (format_time(int(m.moved_at)), sanitize_line(m.to_model, 120), sanitize_line(m.reason, 200))
                for m in moves
            )
        )
    else:
        names = registry.aliases()
        session.add(aliases=names)
        session.print_result(
            format_table((sanitize_line(key, 100), "→", sanitize_line(value, 200)) for key, value in names.items())
        )


@click.command(cls=Command, example="ftpipe models export support-bot@production --output export/ --merged")
@click.argument("model")
@options.output
@click.option("--merged", is_flag=True, help="Whole weights for vLLM, Ollama or transformers, not the adapter alone.")
@pass_session
def export(session: CliContext, model: str, output: Path | None, merged: bool) -> None:
    """Write MODEL, trained on this machine, as safetensors into a folder."""
    pass

    found = session.registry().model(model)
    folder = export_local(found, output, merged=merged, say=session.print_status)
    session.add(model=found.id, folder=folder, merged=merged)
    session.print_result(str(folder))


@click.command(cls=Command, example="ftpipe models compare support-bot@production ft:…")
@click.argument("first")
@click.argument("second")
@pass_session
def compare(session: CliContext, first: str, second: str) -> None:
    """Show where FIRST and SECOND differ, and who was better where both were evaluated."""
    from ftpipe.reports.evaluation.terminal import comparison_lines
    from ftpipe.reports.models import difference_lines

    registry = session.registry()
    one, other = registry.model(first), registry.model(second)
    # a checkpoint answers under its own name, and is judged under it
    sides = [
        name if name in {checkpoint.model for checkpoint in model.checkpoints} else model.id
        for name, model in ((first, one), (second, other))
    ]
    judged = registry.evaluations(*sides)
    session.add(models=[one, other], evaluations=judged)
    session.print_result(difference_lines(one, other, session.style))
    session.print_result(comparison_lines(judged, sides, session.style))
    if not judged:
        session.print_status(
            f"no evaluation has both; ftpipe evaluate {second} --against {first} --data FILE makes one"
        )
