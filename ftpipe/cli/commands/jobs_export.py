"""``ftpipe jobs export`` and ``--export``: send runs and evaluations to W&B, MLflow or trackio."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command

if TYPE_CHECKING:
    from ftpipe.exporters import ExportedRun, Exporter
    from ftpipe.records import Model
    from ftpipe.registry import Registry

TOOLS = ("wandb", "mlflow", "trackio")
project = click.option(
    "--project", metavar="NAME", help="Project or experiment in the tool.  [default: ftpipe]", default=None
)
export_options = shared.combine_options(
    click.option(
        "--export",
        "exports",
        multiple=True,
        type=click.Choice(TOOLS),
        help="Also send the result to this tool. Repeatable.",
    ),
    project,
)


@click.command(
    "export",
    cls=Command,
    example="ftpipe jobs export ftjob-0123456789abcdef --to mlflow\nftpipe jobs export --all --to wandb",
)
@click.argument("job", required=False)
@click.option("--to", "tools", multiple=True, required=True, type=click.Choice(TOOLS), help="Target tool. Repeatable.")
@click.option("--all", "is_all", is_flag=True, help="Send the jobs of all registered models.")
@project
@pass_cli_context
def export_job(context: CliContext, job: str | None, tools: tuple[str, ...], is_all: bool, project: str | None) -> None:
    """Send JOB with parameters, losses and lineage to a tool. Without JOB the latest registered one is used.

    JOB can also be the name or alias of a model. A job that was sent before is replaced. Only data of the registry is
    sent; the provider is not contacted.
    """
    from ftpipe.exporters.run import training_run

    exporters = open_exporters(tools)
    registry = context.registry()
    models = select_models(registry, job, is_all=is_all)
    runs = [training_run(model, registry.jobs.metrics(model.job_id)) for model in models]
    send(context, exporters, runs, project)


def select_models(registry: Registry, job: str | None, *, is_all: bool) -> Sequence[Model]:
    """Select the models whose jobs are exported.

    Raises:
        UsageError: There is none, or a job and ``--all`` were given.
    """
    from ftpipe.errors import UsageError

    if is_all and job:
        raise UsageError("a job and --all were given", "leave one of them out")
    if job:
        return [registry.models.get(job)]
    models = registry.models.recent() if is_all else registry.models.recent(limit=1)
    if not models:
        raise UsageError(
            f"no model is registered in {registry.location}, so there is nothing to export",
            "train one with `ftpipe train`",
        )
    return models


def open_exporters(names: Iterable[str]) -> dict[str, Exporter]:
    """Open the exporters; called before any work is done, so that a missing package is reported first.

    Raises:
        MissingExtraError: The tool's package is not installed.
    """
    from ftpipe.exporters import open_exporter

    with quiet_stdout():
        return {name: open_exporter(name) for name in dict.fromkeys(names)}


def send(context: CliContext, exporters: dict[str, Exporter], runs: Sequence[ExportedRun], project: str | None) -> None:
    """Send every run to every tool, and show where it is.

    Raises:
        ProviderError: A tool refused a run; runs that were sent before stay there.
    """
    from ftpipe.exporters import DEFAULT_PROJECT
    from ftpipe.formatting import sanitize_line

    sent = []
    for name, exporter in exporters.items():
        for run in runs:
            with quiet_stdout():
                location = exporter.send(run, project=project or DEFAULT_PROJECT)
            sent.append({"tool": name, "run": run.name, "id": run.id, "location": location})
            context.print_status(f"exported {sanitize_line(run.name, 100)} to {name}: {sanitize_line(location, 300)}")
    context.add(exports=sent)


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Discard what a tool prints, so that stdout has only the result; errors are raised."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
