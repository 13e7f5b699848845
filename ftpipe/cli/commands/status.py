"""``ftpipe status``: how a run or a job stands, once or until it ends."""

from __future__ import annotations

import shutil
import sys
import time

import click

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
@click.option("-w", "--watch", is_flag=True, help="Stay until the job has ended.")
@click.option("--provider", metavar="NAME", help="Where a job lives that was made elsewhere.")
@pass_cli_context
def status(context: CliContext, job: str | None, watch: bool, provider: str | None) -> None:
    """Show how JOB (a job, run or model id; the latest run where not given) stands.

    Ends with 0 where there is a model, 8 while the job runs, 1 where it failed, was cancelled or does not exist yet.
    """
    settings = context.settings({"provider": provider})
    registry = context.registry(settings)
    run = registry.runs.find(job) if job else registry.runs.latest()
    if run is None and job is None:
        raise UsageError(f"there is no run yet in {registry.location}", "ftpipe train starts one")
    if watch and run is not None and run.job is not None:
        run = watch_until_done(context, settings, registry, run)
    seen = fetch_and_show(context, settings, registry, run, job)
    finish(context, *seen)


def watch_until_done(context: CliContext, settings: Settings, registry: Registry, run: Run) -> Run:
    """Watch until the job has ended; Ctrl-C detaches."""
    from ftpipe.cli.output.run import run_with_display

    pipeline = context.pipeline(context.provider(run.spec.provider, settings), registry)
    try:
        return run_with_display(context, pipeline, run, detach=False, timeout=None)
    except JobFailedError:
        return registry.runs.get(run.id)


def fetch_and_show(
    context: CliContext, settings: Settings, registry: Registry, run: Run | None, name: str | None
) -> tuple[Run | None, Job | None]:
    """One look at the endpoint, and what it shows; what was last seen where the endpoint does not answer.

    Raises:
        ProviderError: The endpoint did not answer; what was last seen is on stdout then.
    """
    trouble: ProviderError | None = None
    job = run.job if run else None
    if run is not None and job is not None and run.state == RunState.CREATED:
        try:
            run = refresh(context, settings, registry, run)
        except ProviderError as error:
            trouble = error
            context.print_always("the endpoint was not reached; this is what was seen last")
        job = run.job
    elif run is None and name is not None:
        job = context.provider(settings.config.provider or LOCAL_PROVIDER, settings).jobs.get(name)
    show(context, registry, run, job)
    if trouble is not None:
        raise trouble
    return run, job


def refresh(context: CliContext, settings: Settings, registry: Registry, run: Run) -> Run:
    """Ask the endpoint once; a job that has succeeded is registered."""
    return context.pipeline(context.provider(run.spec.provider, settings), registry).refresh(run)


def show(context: CliContext, registry: Registry, run: Run | None, job: Job | None) -> None:
    """Put a run and its job on stdout, as text or into the document."""
    from ftpipe.cli.output.run import add_run

    add_run(context, registry, run, job)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80
    metrics = registry.jobs.metrics(job.id) if job else []
    context.print_result(status_lines(run, job, metrics, now=time.time(), width=width, style=context.style))


def finish(context: CliContext, run: Run | None, job: Job | None) -> None:
    """The exit code of what was seen, and the next command.

    Raises:
        JobFailedError: The job ended without a model.
    """
    name = job.id if job else run.id if run else ""
    if job is not None and job.status in ("failed", "cancelled"):
        context.print_status("")
        ended = "was cancelled" if job.status == "cancelled" else "failed"
        raise JobFailedError(f"{name} {ended}", "`ftpipe train` makes a new job; `ftpipe jobs events` tells the story")
    if job is None or not job.is_finished:
        context.exit_code = StillRunningError.exit_code if job else 1
        resume = run.id if run else ""
        context.print_status(f"\n{context.style_err('bold', 'Next:')} ftpipe resume {resume}".rstrip())
    elif run is not None and run.model is not None:
        context.print_status(f"\n{context.style_err('bold', 'Next:')} ftpipe chat {run.model.id}")
    else:
        context.print_status(f"\n{context.style_err('bold', 'Next:')} ftpipe jobs adopt {name}")
