"""``ftpipe models``: registered models, their origin and their aliases."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command, Group
from ftpipe.formatting import format_table, format_time, sanitize_line
from ftpipe.reports.evaluation.terminal import comparison_lines
from ftpipe.reports.models import difference_lines, lineage_lines, model_table, shutdown_notes

models = Group(
    name="models",
    help="Show the registered models, their origin and their aliases.",
    lazy={
        "list": ("ftpipe.cli.commands.models:list_models", "List all models, newest first."),
        "show": ("ftpipe.cli.commands.models:show_model", "Show a model: data, file, job, cost, metrics, checkpoints."),
        "inventory": (
            "ftpipe.cli.commands.models_inventory:inventory",
            "List all models, jobs and files at a provider, with days left.",
        ),
        "bases": ("ftpipe.cli.commands.models_bases:bases", "List the base models that can be trained."),
        "compare": (
            "ftpipe.cli.commands.models:compare",
            "Compare two models: origin, and results of evaluations.",
        ),
        "verify": (
            "ftpipe.cli.commands.models_verify:verify",
            "Check that the registry and the weights were not changed.",
        ),
        "alias": ("ftpipe.cli.commands.models:alias", "Set an alias for a model, or show its history."),
        "record": (
            "ftpipe.cli.commands.models_record:record",
            "Record how a model answers, before it is shut down.",
        ),
        "migrate": (
            "ftpipe.cli.commands.models_migrate:migrate",
            "Move a model to another host: retrain, compare, and move its aliases.",
        ),
        "delete": ("ftpipe.cli.commands.deletion:delete_model", "Delete a model at its provider and in the registry."),
        "download": (
            "ftpipe.cli.commands.models_download:download",
            "Download the adapter of a model from a host that gives it away.",
        ),
        "export": (
            "ftpipe.cli.commands.models_export:export",
            "Write a model that was trained on this machine for other programs.",
        ),
        "backup": (
            "ftpipe.cli.commands.models_backup:backup",
            "Save models with their jobs, files and events in a folder.",
        ),
        "restore": ("ftpipe.cli.commands.models_backup:restore", "Read a backup into the registry."),
    },
    example="ftpipe models list\nftpipe models inventory\nftpipe models alias support-bot@production ft:…",
)


@click.command("list", cls=Command, example="ftpipe models list --json")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    metavar="N",
    default=100,
    show_default=True,
    help="Maximum number of models.",
)
@pass_cli_context
def list_models(context: CliContext, limit: int) -> None:
    """List the registered models, newest first."""
    registry = context.registry()
    listed = registry.models.recent(limit)
    context.add(models=listed)
    today = datetime.now(UTC).date()
    context.print_result(model_table(listed, context.style, today=today, width=context.width) if listed else [])
    context.print_status(shutdown_notes(listed, today))
    if not listed:
        context.print_status(f"no model is registered in {registry.location}; train one with `ftpipe train`")


@click.command("show", cls=Command, example="ftpipe models show support-bot@production")
@click.argument("model")
@pass_cli_context
def show_model(context: CliContext, model: str) -> None:
    """Show MODEL (its name, an alias or its job id), its origin and its evaluations."""
    registry = context.registry()
    record = registry.models.get(model)
    evaluations = registry.evaluations.recent(record.id)
    context.add(model=record, evaluations=evaluations)
    comparisons = comparison_lines(evaluations, [record.id], context.style)
    context.print_result([*lineage_lines(record, context.style), *comparisons])


@click.command(cls=Command, example="ftpipe models alias support-bot@production ft:… --reason 'fewer wrong labels'")
@click.argument("name", required=False)
@click.argument("model", required=False)
@click.option("--reason", default="", metavar="TEXT", help="Reason for the change, for the history.")
@pass_cli_context
def alias(context: CliContext, name: str | None, model: str | None, reason: str) -> None:
    """Set the alias NAME to MODEL. Without MODEL show the history of NAME; without NAME list all aliases.

    NAME can be the name of a model that MODEL replaces. `ftpipe serve --aliases` then answers chats with NAME by MODEL,
    from the next chat on; setting the alias to the model before takes them back.
    """
    registry = context.registry()
    if name and model:
        record = registry.models.set_alias(name, model, reason=reason)
        context.add(alias=name, model=record)
        context.print_result(f"{sanitize_line(name, 100)} → {sanitize_line(record.id, 200)}")
    elif name:
        history = registry.models.alias_history(name)
        context.add(alias=name, history=history)
        rows = [
            (format_time(int(one.moved_at)), sanitize_line(one.to_model, 120), sanitize_line(one.reason, 200))
            for one in history
        ]
        context.print_result(format_table(rows))
        if not history:
            context.print_status(
                f"no alias {sanitize_line(name, 100)} yet; set it with `ftpipe models alias NAME MODEL`"
            )
    else:
        aliases = registry.models.aliases()
        context.add(aliases=aliases)
        context.print_result(
            format_table((sanitize_line(key, 100), "→", sanitize_line(value, 200)) for key, value in aliases.items())
        )
        if not aliases:
            context.print_status("no alias yet; set one with `ftpipe models alias NAME MODEL`")


@click.command(cls=Command, example="ftpipe models compare support-bot@production ft:…")
@click.argument("first")
@click.argument("second")
@pass_cli_context
def compare(context: CliContext, first: str, second: str) -> None:
    """Show how FIRST and SECOND differ, and which one was better in evaluations of both."""
    registry = context.registry()
    models = [registry.models.get(first), registry.models.get(second)]
    # evaluations list a checkpoint under its own name
    names = [
        name if name in {checkpoint.model for checkpoint in model.checkpoints} else model.id
        for name, model in zip((first, second), models, strict=True)
    ]
    evaluations = registry.evaluations.recent(*names)
    context.add(models=models, evaluations=evaluations)
    context.print_result(difference_lines(models[0], models[1], context.style))
    context.print_result(comparison_lines(evaluations, names, context.style))
    if not evaluations:
        context.print_status(f"no evaluation has both; run `ftpipe evaluate {second} --baseline {first} --data FILE`")
