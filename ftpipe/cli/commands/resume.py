"""``ftpipe resume``: go on after any interruption, from the last step that was committed."""

from __future__ import annotations

import time

import click

from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command
from ftpipe.errors import UsageError


@click.command(cls=Command, example="ftpipe resume\nftpipe resume run-0123456789ab")
@click.argument("run", required=False)
@click.option("--detach", is_flag=True, help="Return when the job exists.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait at most so long; then exit 8.")
@pass_cli_context
def resume(context: CliContext, run: str | None, detach: bool, timeout: float | None) -> None:
    """Go on with RUN (a run or job id; the latest where not given).

    What was uploaded is not sent again, and a job that may exist is looked for before another one is created.
    """
    from ftpipe.cli.output.run import print_result, run_with_display

    begun = time.monotonic()
    settings = context.settings()
    registry = context.registry(settings)
    found = registry.runs.find(run) if run else registry.runs.latest()
    if found is None:
        named = f"no run {run!r}" if run else "no run yet"
        raise UsageError(f"there is {named} in {registry.location}", "ftpipe train starts one")
    context.print_status(f"going on with {found.id}, which is {found.state.value}")
    provider = context.provider(found.spec.provider, settings)
    pipeline = context.pipeline(provider, registry)
    found = run_with_display(context, pipeline, found, detach=detach, timeout=timeout)
    print_result(context, provider, found, begun=begun)
