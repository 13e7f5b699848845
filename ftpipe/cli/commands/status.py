"""``ftpipe status``: show the status of a run or job, once or until it has ended; nothing is saved."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import DEFAULT_COLUMNS, CliContext, pass_cli_context
from ftpipe.cli.dataset_request import LOCAL_PROVIDER
from ftpipe.cli.group import Command
from ftpipe.config import Settings
from ftpipe.errors import (
    ConnectionFailedError,
    InterruptedRunError,
    JobFailedError,
    ProviderError,
    ResponseTimeoutError,
    StillRunningError,
    UsageError,
)
from ftpipe.paths import server_dir
from ftpipe.records import Job, Run, RunState, TrainingMetrics
from ftpipe.records.deployment import Deployment
from ftpipe.reports.deployments import billing_lines
from ftpipe.reports.runs import status_lines

if TYPE_CHECKING:
    from ftpipe.pipeline.current_status import CurrentStatus
    from ftpipe.registry import Registry


@click.command(
    cls=Command, example="ftpipe status\nftpipe status ftjob-0123456789abcdef --watch\nftpipe status --shadow"
)
@click.argument("job", required=False)
@click.option("-w", "--watch", is_flag=True, help="Wait until the job has ended.")
@click.option("--provider", metavar="NAME", help="Provider of a job that the registry does not know.")
@shared.trust_host
@click.option("--shadow", is_flag=True, help="Show what `ftpipe serve --shadow` has compared.")
@click.option(
    "--margin",
    type=shared.NumberRange(0, 1, min_open=True, max_open=True),
    metavar="X",
    help="With --shadow: largest difference that does not matter.  [default: 0.05]",
)
@click.option("--data-dir", type=shared.FOLDER, metavar="DIR", help="With --shadow: folder of the server.")
@pass_cli_context
def status(
    context: CliContext,
    job: str | None,
    watch: bool,
    provider: str | None,
    shadow: bool = False,
    margin: float | None = None,
    data_dir: Path | None = None,
) -> None:
    """Show the status of JOB (a job, run or model id). Without JOB the latest run is shown.

    Nothing is saved, and the embedded server is not started: `ftpipe resume` continues a run and registers its model.
    The exit code is 0 if there is a model, 8 while the job runs, 1 if it failed, was cancelled or was not created yet,
    and 2 if there is no run at all.

    --shadow shows what `ftpipe serve --shadow` has found out about two models so far. Its intervals and verdicts hold
    however often you look.
    """
    if shadow:
        if job is not None or watch or provider is not None:
            raise UsageError("--shadow is about a server, not about a job", "leave JOB, --watch and --provider out")
        show_shadow_status(context, data_dir, margin)
        return
    if margin is not None or data_dir is not None:
        raise UsageError("--margin and --data-dir need --shadow", "add --shadow")
    settings = context.settings({"provider": provider})
    registry = context.registry(settings, read_only=True)
    run = registry.runs.find(job) if job else registry.runs.latest()
    if run is None and job is None:
        raise UsageError(f"there is no run yet in {registry.location}", "start one with `ftpipe train`")
    shown = fetch_and_show(context, settings, registry, run, job, watch=watch)
    show_billed(context, registry.deployments.recent())
    finish(context, *shown)


jobs_show = copy.copy(status)
"""The same command as ``ftpipe jobs show``."""
jobs_show.name = "show"
jobs_show.example = "ftpipe jobs show\nftpipe jobs show ftjob-0123456789abcdef --watch"
jobs_show.help = (status.help or "").partition("--shadow shows")[0].rstrip()
jobs_show.params = [option for option in status.params if option.name not in ("shadow", "margin", "data_dir")]


def show_shadow_status(context: CliContext, data_dir: Path | None, margin: float | None) -> None:
    """Write the comparisons of all owners and pairs of a server.

    Raises:
        UsageError: Nothing was mirrored yet.
    """
    from ftpipe.pipeline.shadow_status import DEFAULT_MARGIN, shadow_statuses
    from ftpipe.reports.shadow import shadow_lines

    folder = data_dir or server_dir()
    statuses = shadow_statuses(folder, margin=margin or DEFAULT_MARGIN)
    if not statuses:
        raise UsageError(
            f"no chat was mirrored yet in {folder}", "start the server with `ftpipe serve --shadow OLD=NEW`"
        )
    context.add(shadow=[status.model_dump(mode="json") for status in statuses])
    width = context.width or DEFAULT_COLUMNS
    for index, status in enumerate(statuses):
        context.print_result([""] * (index > 0))
        context.print_result(shadow_lines(status, context.style, now=time.time(), width=width))


def fetch_and_show(
    context: CliContext, settings: Settings, registry: Registry, run: Run | None, name: str | None, *, watch: bool
) -> tuple[Run | None, Job | None]:
    """Fetch and show the status; show the last known status if the provider does not answer.

    Raises:
        ProviderError: The provider did not answer; the last known status was shown.
    """
    from ftpipe.pipeline.current_status import saved_status

    if run is None:
        _, job = context.look_up_job(name or "", settings.config.provider or LOCAL_PROVIDER, settings)
        show(context, None, job, [])
        return None, job
    failure: ProviderError | None = None
    current = saved_status(run, registry)
    if run.job is not None and run.state == RunState.CREATED:
        try:
            current = fetch(context, settings, registry, run, watch=watch)
        except ProviderError as error:
            # the jobs of an embedded server that does not run do not change
            failure = None if is_stopped(error, run) else error
            reason = error.message if failure is None else "the provider was not reached"
            context.print_always(f"{reason}; this is the last known status")
    show(context, current.run, current.run.job, current.metrics)
    if failure is not None:
        raise failure
    return current.run, current.run.job


def is_stopped(error: ProviderError, run: Run) -> bool:
    """Whether a run's embedded server does not run."""
    is_reachable = isinstance(error, ResponseTimeoutError)
    return isinstance(error, ConnectionFailedError) and not is_reachable and run.endpoint.startswith("local:")


def fetch(context: CliContext, settings: Settings, registry: Registry, run: Run, *, watch: bool) -> CurrentStatus:
    """Read a run's job once, or with ``watch`` until it has ended; Ctrl-C stops watching, not the job."""
    from ftpipe.cli.output.live import make_display
    from ftpipe.pipeline.current_status import read_status, watch_status

    provider = context.provider(run.spec.provider, settings, start=False)
    if not watch:
        return read_status(run, provider, registry)
    sleep = context.pipeline(provider, registry).sleep
    try:
        with make_display(context) as display:
            display.metrics.extend(registry.jobs.metrics(run.job.id) if run.job else [])
            return watch_status(run, provider, registry, observer=display, sleep=sleep)
    except KeyboardInterrupt as exc:
        name = run.job.id if run.job else run.id
        raise InterruptedRunError(f"no longer watching {name}; the job continues", f"ftpipe resume {run.id}") from exc


def show(context: CliContext, run: Run | None, job: Job | None, metrics: Sequence[TrainingMetrics]) -> None:
    """Write a run and its job to stdout, or into the JSON document."""
    from ftpipe.cli.output.run import add_run

    add_run(context, run, job, metrics)
    width = context.width or DEFAULT_COLUMNS
    context.print_result(status_lines(run, job, metrics, now=time.time(), width=width, style=context.style))


def show_billed(context: CliContext, deployments: Sequence[Deployment]) -> None:
    """Show those of some deployments that are billed per hour."""
    billed = [deployment for deployment in deployments if deployment.is_billed]
    context.add(billed=billed)
    if billed:
        context.print_result(["", *billing_lines(billed, context.style)])


def finish(context: CliContext, run: Run | None, job: Job | None) -> None:
    """Set the exit code for a status, and show the next command.

    Raises:
        JobFailedError: The job ended without a model.
    """
    name = job.id if job else run.id if run else ""
    if job is not None and job.status in ("failed", "cancelled"):
        context.print_status("")
        ended = "was cancelled" if job.status == "cancelled" else "failed"
        raise JobFailedError(f"{name} {ended}", f"see `ftpipe jobs events {name}`; `ftpipe train` creates a new job")
    context.print_status("")
    if job is None or not job.is_finished:
        context.exit_code = StillRunningError.exit_code if job else 1
        resume = run.id if run else ""
        context.print_next(f"ftpipe resume {resume}".rstrip())
    elif run is None:
        context.print_next(f"ftpipe jobs adopt {name}")
    elif run.state == RunState.CREATED:
        context.print_next(f"ftpipe resume {run.id}   (registers the model)")
    elif run.model is not None:
        context.print_next(f"ftpipe chat {run.model.id}")
