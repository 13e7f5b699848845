"""``ftpipe jobs``: list and control the jobs of the registry and of providers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import LOCAL_PROVIDER
from ftpipe.cli.group import Command, Group
from ftpipe.errors import UsageError
from ftpipe.formatting import format_decimal, format_table, plural, sanitize_line
from ftpipe.records import Event, Job, Run
from ftpipe.registry import Registry
from ftpipe.reports.models import validation_loss
from ftpipe.reports.runs import event_line, job_table

if TYPE_CHECKING:
    from ftpipe.providers.provider import Provider

jobs = Group(
    name="jobs",
    help="List and control the jobs of the registry and of providers.",
    lazy={
        "list": ("ftpipe.cli.commands.jobs:list_jobs", "List known jobs, or all jobs of a provider."),
        "show": ("ftpipe.cli.commands.status:jobs_show", "Show the status of a job; the same as `ftpipe status`."),
        "events": ("ftpipe.cli.commands.jobs:events", "Show the events of a job."),
        "checkpoints": ("ftpipe.cli.commands.jobs:checkpoints", "List the checkpoints of a job; each is a model."),
        "cancel": ("ftpipe.cli.commands.jobs:cancel", "Stop a job for good."),
        "pause": ("ftpipe.cli.commands.jobs:pause", "Pause a job."),
        "resume": ("ftpipe.cli.commands.jobs:resume_job", "Continue a paused job."),
        "export": ("ftpipe.cli.commands.jobs_export:export_job", "Send jobs to W&B, MLflow or trackio."),
        "delete": ("ftpipe.cli.commands.deletion:delete_job", "Delete a job that has ended."),
        "adopt": ("ftpipe.cli.commands.jobs:adopt_job", "Add a job that was created elsewhere to the registry."),
    },
    example="ftpipe jobs list\nftpipe jobs events ftjob-0123456789abcdef",
)
_provider = click.option("--provider", metavar="NAME", help="Provider of a job that the registry does not know.")
_job = click.argument("job", required=False)


@dataclass(frozen=True)
class JobTarget:
    """A job that a command is about."""

    id: str
    run: Run | None
    """Its run, if the registry knows it."""
    provider: Provider
    registry: Registry


def find_job(context: CliContext, job: str | None, provider: str | None, *, start: bool = False) -> JobTarget:
    """Find a job by its id or that of its run; the job of the latest run if none is given.

    Args:
        context: The context of the command.
        job: Id of the job or run.
        provider: Provider of a job that the registry does not know.
        start: Start the embedded server even if the registry does not know the job.

    Raises:
        UsageError: No job is given, and there is none.
    """
    settings = context.settings({"provider": provider})
    registry = context.registry(settings)
    runs = [registry.runs.find(job)] if job else registry.runs.recent()
    run = next((run for run in runs if run is not None and (job or run.job)), None)
    job_id = run.job.id if run and run.job else job
    if job_id is None:
        raise UsageError(f"there is no job yet in {registry.location}", "create one with `ftpipe train`")
    name = run.spec.provider if run else settings.config.provider or LOCAL_PROVIDER
    if run is None and not start:
        looked_up, _ = context.look_up_job(job_id, name, settings)
        return JobTarget(job_id, run, looked_up, registry)
    return JobTarget(job_id, run, context.provider(name, settings), registry)


@click.command("list", cls=Command, example="ftpipe jobs list --provider openai --limit 20")
@click.option("--provider", metavar="NAME", help="List all jobs of this provider.  [default: jobs in the registry]")
@click.option(
    "--limit", type=click.IntRange(1, 1000), metavar="N", default=20, show_default=True, help="Maximum number of jobs."
)
@shared.trust_host
@pass_cli_context
def list_jobs(context: CliContext, provider: str | None, limit: int) -> None:
    """List jobs with their last known status, newest first."""
    from ftpipe.cli.commands.status import show_billed

    settings = context.settings()
    if provider:
        host = context.provider(provider, settings)
        listed = list(islice(host.jobs.recent(), limit))
        deployments = host.deployments.list() if host.deployments else []
    else:
        registry = context.registry(settings)
        listed, deployments = registry.jobs.recent(limit), registry.deployments.recent()
    context.add(jobs=listed)
    context.print_result(job_table(listed, context.style, width=context.width) if listed else [])
    if not listed:
        context.print_status("no jobs; create one with `ftpipe train`, or list a provider's with --provider NAME")
    show_billed(context, deployments)


@click.command(cls=Command, example="ftpipe jobs events --follow")
@_job
@_provider
@click.option("-f", "--follow", is_flag=True, help="Continue to show events until the job has ended.")
@shared.trust_host
@pass_cli_context
def events(context: CliContext, job: str | None, provider: str | None, follow: bool) -> None:
    """Show the events of JOB, oldest first. Without JOB the latest run's job is used."""
    from ftpipe.stages.poll import PollJob

    target = find_job(context, job, provider)
    shown: list[Event] = []

    def show_events(new: list[Event]) -> None:
        shown.extend(new)
        if target.run and target.run.job:
            target.registry.jobs.save_events(target.run.job, new)
        context.print_result(event_line(event, context.style) for event in new)

    with context.interruptible(
        f"no longer following {target.id}; the job continues", f"ftpipe jobs events {target.id} --follow"
    ):
        show_events(target.provider.jobs.events(target.id))
        if follow:
            PollJob(
                target.provider.jobs.get(target.id),
                target.provider,
                known_events={event.id for event in shown},
                on_events=show_events,
                on_status=context.print_status,
            ).run()
    context.add(job=target.id, events=shown)


@click.command(cls=Command, example="ftpipe jobs checkpoints ftjob-0123456789abcdef")
@_job
@_provider
@shared.trust_host
@pass_cli_context
def checkpoints(context: CliContext, job: str | None, provider: str | None) -> None:
    """List the checkpoints of JOB by step. Without JOB the latest run's job is used."""
    target = find_job(context, job, provider)
    listed = target.provider.jobs.checkpoints(target.id)
    context.add(job=target.id, checkpoints=listed)
    rows = [("step", "train loss", "valid loss", "model")]
    rows += [
        (
            str(one.step),
            format_decimal(one.metrics.train_loss),
            format_decimal(validation_loss(one.metrics)),
            sanitize_line(one.model, 120),
        )
        for one in listed
    ]
    context.print_result(format_table(rows, right=(0, 1, 2)) if listed else [])
    context.print_status(plural(len(listed), "checkpoint"))


def show_changed(context: CliContext, target: JobTarget, job: Job, *, note: str = "") -> None:
    """Save and show a job whose state was changed, and a note about it."""
    if target.run is not None:
        context.pipeline(target.provider, target.registry).refresh(target.run)
    context.add(job=job)
    context.print_result(f"{sanitize_line(job.id, 80)}  {sanitize_line(job.status, 40)}")
    if note:
        context.print_status(note)
    context.print_next(f"ftpipe status {job.id}")


@click.command(cls=Command, example="ftpipe jobs cancel\nftpipe jobs cancel ftjob-0123456789abcdef")
@_job
@_provider
@shared.trust_host
@pass_cli_context
def cancel(context: CliContext, job: str | None, provider: str | None) -> None:
    """Stop JOB for good; without JOB the latest one. The provider may bill what was already trained."""
    target = find_job(context, job, provider)
    show_changed(context, target, target.provider.jobs.cancel(target.id))


@click.command(cls=Command, example="ftpipe jobs pause\nftpipe jobs pause ftjob-0123456789abcdef")
@_job
@_provider
@shared.trust_host
@pass_cli_context
def pause(context: CliContext, job: str | None, provider: str | None) -> None:
    """Pause JOB, if the provider supports it; without JOB the latest one."""
    target = find_job(context, job, provider)
    paused = target.provider.jobs.pause(target.id)
    is_pending = paused.status != "paused" and not paused.is_finished
    note = "the pause was requested; the job pauses when its current step is done" if is_pending else ""
    show_changed(context, target, paused, note=note)


@click.command("resume", cls=Command, example="ftpipe jobs resume\nftpipe jobs resume ftjob-0123456789abcdef")
@_job
@_provider
@shared.trust_host
@pass_cli_context
def resume_job(context: CliContext, job: str | None, provider: str | None) -> None:
    """Continue the paused JOB; without JOB the latest one."""
    target = find_job(context, job, provider)
    show_changed(context, target, target.provider.jobs.resume(target.id))


@click.command("adopt", cls=Command, example="ftpipe jobs adopt ftjob-0123456789abcdef --provider openai")
@click.argument("job")
@click.option("--provider", metavar="NAME", help="Provider that has the job.  [default: the configured one, or local]")
@shared.trust_host
@pass_cli_context
def adopt_job(context: CliContext, job: str, provider: str | None) -> None:
    """Add JOB, which was not created by ftpipe, to the registry. Its model is registered when the job has ended."""
    from ftpipe.cli.commands.status import finish, show
    from ftpipe.pipeline.adopt import adopt

    target = find_job(context, job, provider, start=True)
    run = adopt(target.id, provider=target.provider, registry=target.registry)
    run = context.pipeline(target.provider, target.registry).refresh(run)
    show(context, run, run.job, target.registry.jobs.metrics(target.id))
    finish(context, run, run.job)
