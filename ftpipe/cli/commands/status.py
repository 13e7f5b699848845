"""``ftpipe status``: show the status of a run or job, once or until it has ended."""

from __future__ import annotations

import copy
import shutil
import sys
import time

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import LOCAL_PROVIDER
from ftpipe.cli.group import Command
from ftpipe.config import Settings
from ftpipe.errors import JobFailedError, ProviderError, StillRunningError, UsageError
from ftpipe.records import Job, Run, RunState
from ftpipe.registry import Registry
from ftpipe.reports.runs import status_lines


@click.command(cls=Command, example="ftpipe status\nftpipe status ftjob-0123456789abcdef --watch")
@click.argument("job", required=False)
@click.option("-w", "--watch", is_flag=True, help="Wait until the job has ended.")
@click.option("--provider", metavar="NAME", help="Provider of a job that the registry does not know.")
@shared.trust_host
@pass_cli_context
def status(context: CliContext, job: str | None, watch: bool, provider: str | None) -> None:
    """Show the status of JOB (a job, run or model id). Without JOB the latest run is shown.

    The exit code is 0 if there is a model, 8 while the job runs, 1 if it failed, was cancelled or was not created yet,
    and 2 if there is no run at all.
    """
    settings = context.settings({"provider": provider})
    registry = context.registry(settings)
    run = registry.runs.find(job) if job else registry.runs.latest()
    if run is None and job is None:
        raise UsageError(f"there is no run yet in {registry.location}", "start one with `ftpipe train`")
    if watch and run is not None and run.job is not None:
        run = watch_until_done(context, settings, registry, run)
    finish(context, *fetch_and_show(context, settings, registry, run, job))


jobs_show = copy.copy(status)
"""The same command as ``ftpipe jobs show``."""
jobs_show.name = "show"
jobs_show.example = "ftpipe jobs show\nftpipe jobs show ftjob-0123456789abcdef --watch"


def watch_until_done(context: CliContext, settings: Settings, registry: Registry, run: Run) -> Run:
    """Show progress until the job has ended; Ctrl-C stops watching, not the job."""
    from ftpipe.cli.output.run import run_with_display

    pipeline = context.pipeline(context.provider(run.spec.provider, settings), registry)
    try:
        return run_with_display(context, pipeline, run, detach=False, timeout=None)
    except JobFailedError:
        return registry.runs.get(run.id)


def fetch_and_show(
    context: CliContext, settings: Settings, registry: Registry, run: Run | None, name: str | None
) -> tuple[Run | None, Job | None]:
    """Fetch the status once and show it; show the last known status if the provider does not answer.

    Raises:
        ProviderError: The provider did not answer; the last known status was shown.
    """
    failure: ProviderError | None = None
    job = run.job if run else None
    if run is not None and job is not None and run.state == RunState.CREATED:
        try:
            run = refresh(context, settings, registry, run)
        except ProviderError as error:
            failure = error
            context.print_always("the provider was not reached; this is the last known status")
        job = run.job
    elif run is None and name is not None:
        job = context.provider_for_lookup(settings.config.provider or LOCAL_PROVIDER, settings, name).jobs.get(name)
    show(context, registry, run, job)
    if failure is not None:
        raise failure
    return run, job


def refresh(context: CliContext, settings: Settings, registry: Registry, run: Run) -> Run:
    """Fetch the job once; its model is registered if it has succeeded."""
    return context.pipeline(context.provider(run.spec.provider, settings), registry).refresh(run)


def show(context: CliContext, registry: Registry, run: Run | None, job: Job | None) -> None:
    """Write a run and its job to stdout, or into the JSON document."""
    from ftpipe.cli.output.run import add_run

    add_run(context, registry, run, job)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80
    metrics = registry.jobs.metrics(job.id) if job else []
    context.print_result(status_lines(run, job, metrics, now=time.time(), width=width, style=context.style))


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
    if job is None or not job.is_finished:
        context.exit_code = StillRunningError.exit_code if job else 1
        resume = run.id if run else ""
        context.print_status("")
        context.print_next(f"ftpipe resume {resume}".rstrip())
    elif run is not None and run.model is not None:
        context.print_status("")
        context.print_next(f"ftpipe chat {run.model.id}")
    else:
        context.print_status("")
        context.print_next(f"ftpipe jobs adopt {name}")
