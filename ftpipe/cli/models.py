"""``ftpipe models``: the registered models, what each came from, and the names that point at them."""

from __future__ import annotations

from pathlib import Path

import click

from ftpipe.cli import options
from ftpipe.cli.group import Command, Group
from ftpipe.cli.session import CliContext, pass_session
from ftpipe.plain import format_table, format_time, sanitize_line
from ftpipe.reports.evaluation.short import comparison_lines
from ftpipe.reports.models import lineage_lines, model_table

models = Group(
    name="models",
    help="The registered models, what each came from, and their aliases.",
    lazy={
        "list": ("ftpipe.cli.models:list_models", "All models, newest first."),
        "show": ("ftpipe.cli.models:show_model", "One model: data, file, job, cost, metrics, checkpoints."),
        "compare": ("ftpipe.cli.compare:compare", "Two models side by side, and who was better in evaluations."),
        "verify": ("ftpipe.cli.verify:verify", "Whether models and their weights are as ftpipe wrote them."),
        "alias": ("ftpipe.cli.models:alias", "Point a name at a model, or see where it pointed."),
        "export": ("ftpipe.cli.models:export", "Write a model trained here as a folder for other tools."),
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
    from ftpipe.cli.exporting import export_local

    found = session.registry().model(model)
    folder = export_local(found, output, merged=merged, say=session.print_status)
    session.add(model=found.id, folder=folder, merged=merged)
    session.print_result(str(folder))
