"""``ftpipe jobs``: the jobs of the registry and of endpoints, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import LOCAL_PROVIDER
from ftpipe.cli.group import Command, Group
from ftpipe.config import Settings
from ftpipe.formatting import format_decimal, format_table, plural, sanitize_line
from ftpipe.records import Event, Job, Run
from ftpipe.registry import Registry
from ftpipe.reports.runs import event_line, job_table

if TYPE_CHECKING:
    from ftpipe.providers.provider import Provider

jobs = Group(
    name="jobs",
    help="The jobs that the registry knows, and those of an endpoint.",
    lazy={
        "list": ("ftpipe.cli.commands.jobs:list_jobs", "Known jobs, or all of an endpoint."),
        "show": ("ftpipe.cli.commands.status:status", "How one job stands; the same as `ftpipe status`."),
        "events": ("ftpipe.cli.commands.jobs:events", "What a job has reported."),
        "checkpoints": ("ftpipe.cli.commands.jobs:checkpoints", "Its checkpoints, each a model that answers."),
        "cancel": ("ftpipe.cli.commands.jobs:cancel", "Stop a job for good."),
        "pause": ("ftpipe.cli.commands.jobs:pause", "Stop a job for a while."),
        "resume": ("ftpipe.cli.commands.jobs:resume_job", "Let a paused job go on."),
        "export": ("ftpipe.cli.commands.jobs_export:export_job", "Send jobs to W&B, MLflow or trackio."),
        "adopt": ("ftpipe.cli.commands.jobs:adopt_job", "Take a job made elsewhere into the registry."),
    },
    example="ftpipe jobs list\nftpipe jobs events ftjob-0123456789abcdef",
)
_provider = click.option("--provider", metavar="NAME", help="Where the job lives, if the registry does not know it.")
_job = click.argument("job", required=False)


def _find(
    context: CliContext, job: str | None, provider: str | None
) -> tuple[Settings, Registry, Run | None, Provider, str]:
    """The job's run if it is known, its endpoint, and its id; the latest run's where none is named."""
    from ftpipe.errors import UsageError

    settings = context.settings({"provider": provider})
    registry = context.registry(settings)
    run = registry.runs.find(job) if job else registry.runs.latest()
    name = run.job.id if run and run.job else job
    if name is None:
        raise UsageError("no job was named, and the latest run has none", "`ftpipe jobs list` shows what there is")
    where = run.spec.provider if run else settings.config.provider or LOCAL_PROVIDER
    return settings, registry, run, context.provider(where, settings), name


@click.command("list", cls=Command, example="ftpipe jobs list --provider openai --limit 20")
@click.option("--provider", metavar="NAME", help="Ask this endpoint; else the jobs that the registry knows are listed.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many, newest first.")
@pass_cli_context
def list_jobs(context: CliContext, provider: str | None, limit: int) -> None:
    """List jobs, newest first, as they were last seen."""
    from itertools import islice

    settings = context.settings()
    if provider:
        found = list(islice(context.provider(provider, settings).jobs.recent(), limit))
    else:
        found = context.registry(settings).jobs.recent(limit)
    context.add(jobs=found)
    context.print_result(job_table(found, context.style) if found else [])
    if not found:
        context.print_status("no jobs; `ftpipe jobs list --provider NAME` asks an endpoint, `ftpipe train` makes one")


@click.command(cls=Command, example="ftpipe jobs events --follow")
@_job
@_provider
@click.option("-f", "--follow", is_flag=True, help="Stay until the job has ended.")
@pass_cli_context
def events(context: CliContext, job: str | None, provider: str | None, follow: bool) -> None:
    """Show the events of JOB (the latest run's where not given), oldest first."""
    from ftpipe.stages.poll import PollJob

    _, registry, run, endpoint, name = _find(context, job, provider)
    heard: list[Event] = []

    def hear(new: list[Event]) -> None:
        heard.extend(new)
        if run and run.job:
            registry.jobs.save_events(run.job, new)
        context.print_result(event_line(event, context.style) for event in new)

    context.interrupt_message = f"no longer listening; {name} goes on"
    context.resume_hint = f"ftpipe jobs events {name} --follow"
    hear(endpoint.jobs.events(name))
    if follow:
        known = {event.id for event in heard}
        PollJob(
            endpoint.jobs.get(name),
            endpoint,
            known_events=known,
            on_events=hear,
            on_status=context.print_status,
        ).run()
    context.add(job=name, events=heard)


@click.command(cls=Command, example="ftpipe jobs checkpoints ftjob-0123456789abcdef")
@_job
@_provider
@pass_cli_context
def checkpoints(context: CliContext, job: str | None, provider: str | None) -> None:
    """Show the checkpoints of JOB (the latest run's where not given) by step."""
    *_, endpoint, name = _find(context, job, provider)
    found = endpoint.jobs.checkpoints(name)
    context.add(job=name, checkpoints=found)
    rows = [("step", "train loss", "valid loss", "model")]
    rows += [
        (
            str(c.step),
            format_decimal(c.metrics.train_loss),
            format_decimal(c.metrics.full_valid_loss or c.metrics.valid_loss),
            sanitize_line(c.model, 120),
        )
        for c in found
    ]
    context.print_result(format_table(rows, right=(0, 1, 2)) if found else [])
    context.print_status(plural(len(found), "checkpoint"))


def _change(context: CliContext, job: str, provider: str | None, action: str) -> None:
    """Cancel, pause or resume, and say how the job stands then."""
    _, registry, run, endpoint, name = _find(context, job, provider)
    changed: Job = getattr(endpoint.jobs, action)(name)
    if run is not None:
        context.pipeline(endpoint, registry).refresh(run)
    context.add(job=changed)
    context.print_result(f"{sanitize_line(changed.id, 80)}  {sanitize_line(changed.status, 40)}")
    context.print_status(f"{context.style_err('bold', 'Next:')} ftpipe status {changed.id}")


@click.command(cls=Command, example="ftpipe jobs cancel ftjob-0123456789abcdef")
@click.argument("job")
@_provider
@pass_cli_context
def cancel(context: CliContext, job: str, provider: str | None) -> None:
    """Stop JOB for good; what it has trained may be billed."""
    _change(context, job, provider, "cancel")


@click.command(cls=Command, example="ftpipe jobs pause ftjob-0123456789abcdef")
@click.argument("job")
@_provider
@pass_cli_context
def pause(context: CliContext, job: str, provider: str | None) -> None:
    """Stop JOB for a while, where the endpoint can."""
    _change(context, job, provider, "pause")


@click.command("resume", cls=Command, example="ftpipe jobs resume ftjob-0123456789abcdef")
@click.argument("job")
@_provider
@pass_cli_context
def resume_job(context: CliContext, job: str, provider: str | None) -> None:
    """Let the paused JOB go on."""
    _change(context, job, provider, "resume")


@click.command("adopt", cls=Command, example="ftpipe jobs adopt ftjob-0123456789abcdef --provider openai")
@click.argument("job")
@_provider
@pass_cli_context
def adopt_job(context: CliContext, job: str, provider: str | None) -> None:
    """Take JOB, made by other means, into the registry; its model is registered when it has ended."""
    from ftpipe.cli.commands.status import finish, show
    from ftpipe.pipeline.adopt import adopt

    *_, registry, _run, endpoint, name = _find(context, job, provider)
    run = adopt(name, provider=endpoint, registry=registry)
    run = context.pipeline(endpoint, registry).refresh(run)
    show(context, registry, run, run.job)
    finish(context, run, run.job)
