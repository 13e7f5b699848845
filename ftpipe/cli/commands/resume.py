"""``ftpipe resume``: continue a run after any interruption, from its last saved step."""

from __future__ import annotations

import time

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command
from ftpipe.errors import UsageError


@click.command(cls=Command, example="ftpipe resume\nftpipe resume run-0123456789ab")
@click.argument("run", required=False)
@shared.detach
@shared.timeout
@shared.trust_host
@pass_cli_context
def resume(context: CliContext, run: str | None, detach: bool, timeout: float | None) -> None:
    """Continue RUN (a run or job id). Without RUN the latest run is continued.

    Uploaded files are not sent again. If a job may have been created already, it is searched for before a new one is
    created.
    """
    from ftpipe.cli.output.run import print_result, run_with_display

    started_at = time.monotonic()
    settings = context.settings()
    registry = context.registry(settings)
    unfinished = registry.runs.find(run) if run else registry.runs.latest()
    if unfinished is None:
        missing = f"no run {run!r}" if run else "no run yet"
        raise UsageError(f"there is {missing} in {registry.location}", "start one with `ftpipe train`")
    context.print_status(f"resuming {unfinished.id}, which is {unfinished.state.value}")
    provider = context.provider(unfinished.spec.provider, settings)
    pipeline = context.pipeline(provider, registry, settings)
    finished = run_with_display(context, pipeline, unfinished, detach=detach, timeout=timeout)
    print_result(context, provider, finished, started_at=started_at)
