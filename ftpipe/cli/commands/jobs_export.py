"""``--export`` and ``ftpipe jobs export``: what was trained and found, in W&B, MLflow or trackio."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from ftpipe.cli import options
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command

if TYPE_CHECKING:
    from ftpipe.exporters import ExportedRun, Exporter
    from ftpipe.records import Model
    from ftpipe.registry import Registry

TOOLS = ("wandb", "mlflow", "trackio")
project = click.option(
    "--project", metavar="NAME", help="Project or experiment in that tool.  [default: ftpipe]", default=None
)
export_options = options.combine_options(
    click.option("--export", "exports", multiple=True, type=click.Choice(TOOLS), help="Send the result there, too."),
    project,
)


@click.command(
    "export",
    cls=Command,
    example="ftpipe jobs export ftjob-0123456789abcdef --to mlflow\nftpipe jobs export --all --to wandb",
)
@click.argument("job", required=False)
@click.option("--to", "tools", multiple=True, required=True, type=click.Choice(TOOLS), help="The tool; may come again.")
@click.option("--all", "every", is_flag=True, help="Every registered model's job, not one.")
@project
@pass_cli_context
def export_job(context: CliContext, job: str | None, tools: tuple[str, ...], every: bool, project: str | None) -> None:
    """Send JOB (the latest registered one where not given) with parameters, losses and lineage to a tool.

    JOB may also be a model's name or alias. Sent twice it takes the place of the earlier. Nothing is asked of the
    endpoint that trained: what the registry knows is sent.
    """
    from ftpipe.exporters.run import training_run

    exporters = open_exporters(tools)
    registry = context.registry()
    runs = [
        training_run(model, registry.jobs.metrics(model.job_id)) for model in select_models(registry, job, every=every)
    ]
    send(context, exporters, runs, project)


def select_models(registry: Registry, job: str | None, *, every: bool) -> Sequence[Model]:
    """The models whose jobs are meant.

    Raises:
        UsageError: There is none, or both one and all were asked for.
    """
    from ftpipe.errors import UsageError

    if every and job:
        raise UsageError("a job was named, and --all as well", "leave one of them out")
    if job:
        return [registry.models.get(job)]
    found = registry.models.recent() if every else registry.models.recent(limit=1)
    if not found:
        raise UsageError(
            f"no model is registered in {registry.location}, so there is nothing to export", "`ftpipe train` makes one"
        )
    return found


def open_exporters(names: Iterable[str]) -> dict[str, Exporter]:
    """The exporters, opened before any work is done, so that a missing package is told at once.

    Raises:
        MissingExtraError: The tool's package is not installed.
    """
    from ftpipe.exporters import open_exporter

    with quiet_stdout():
        return {name: open_exporter(name) for name in dict.fromkeys(names)}


def send(context: CliContext, exporters: dict[str, Exporter], runs: Sequence[ExportedRun], project: str | None) -> None:
    """Send every run to every tool, and say where it is.

    Raises:
        ProviderError: A tool did not take it; what was sent before stays there.
    """
    from ftpipe.exporters import DEFAULT_PROJECT
    from ftpipe.formatting import sanitize_line

    sent = []
    for name, exporter in exporters.items():
        for run in runs:
            with quiet_stdout():
                where = exporter.send(run, project=project or DEFAULT_PROJECT)
            sent.append({"tool": name, "run": run.name, "id": run.id, "where": where})
            context.print_status(f"exported {sanitize_line(run.name, 100)} to {name}: {sanitize_line(where, 300)}")
    context.add(exports=sent)


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Whatever a tool prints is dropped, so that stdout holds nothing but the result; its errors are raised."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
