"""``ftpipe serve``: the embedded endpoint in this terminal, and a look at the one in the background."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command, Group
from ftpipe.errors import MissingExtraError, UsageError
from ftpipe.formatting import format_fields, format_time, sanitize_block, sanitize_line
from ftpipe.paths import server_dir

_data_dir = click.option(
    "--data-dir", type=click.Path(path_type=Path), metavar="DIR", help="Where its files and jobs lie."
)


@click.group(
    "serve",
    cls=Group,
    lazy={
        "status": ("ftpipe.cli.commands.serve:serve_status", "Whether it runs, and where."),
        "stop": ("ftpipe.cli.commands.serve:stop", "Stop the one that runs; jobs go on at the next start."),
        "logs": ("ftpipe.cli.commands.serve:logs", "What it wrote."),
    },
    example="ftpipe serve --port 8321\nOPENAI_BASE_URL=http://127.0.0.1:8321/v1 OPENAI_API_KEY=none python script.py",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; others than loopback need keys.")
@click.option("--port", type=click.IntRange(0, 65535), default=8321, show_default=True, help="0 takes any free port.")
@_data_dir
@click.option("--api-key-file", type=click.Path(path_type=Path), metavar="FILE", help="Lines of owner:key.")
@click.option("--max-jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Jobs that train at once.")
@click.option(
    "--engine",
    type=click.Choice(["process", "ray"]),
    default="process",
    show_default=True,
    help="What computes jobs: this machine, or a Ray cluster.",
)
@click.option("--ray-address", metavar="HOST:PORT", help="The cluster's; left out, the one this machine is part of.")
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Processes that share a job.  [default: one per GPU; on a cluster without, one per machine]",
)
@click.option(
    "--no-substitute-models", is_flag=True, help="Refuse OpenAI's base names instead of serving the default base."
)
@click.pass_context
def serve(ctx: click.Context, /, data_dir: Path | None, no_substitute_models: bool, **flags: Any) -> None:
    """Run the embedded endpoint: files, fine-tuning jobs, models and chat, in the shape of the OpenAI API.

    It listens on loopback and needs no key there. Jobs and files survive a restart. Ctrl-C stops it.

    With --engine ray the workers of a Ray cluster compute each job; queue, files and models stay here. Every machine of
    the cluster needs ftpipe[local,ray] and reaches this one; the base is loaded there by its name.
    """
    if ctx.invoked_subcommand is not None:
        return
    from ftpipe.server.http import serve as listen
    from ftpipe.server.settings import ServeSettings

    if flags["engine"] == "ray":
        need_ray()
    elif flags["ray_address"]:
        raise UsageError("--ray-address is for the engine ray", "add --engine ray")
    flags["workers"] = flags["workers"] or 0
    context = ctx.ensure_object(CliContext)
    context.interrupt_message, context.resume_hint = (
        "the endpoint has stopped",
        "unfinished jobs go on at the next `ftpipe serve`",
    )
    if flags["port"]:
        context.print_status(f"OPENAI_BASE_URL=http://{flags['host']}:{flags['port']}/v1 brings any OpenAI client here")
    data_dir = (data_dir or server_dir()).absolute()
    listen(ServeSettings(data_dir=data_dir, substitute_models=not no_substitute_models, **flags))


def need_ray() -> None:
    """Refuse to start an endpoint whose every job would fail.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("the engine ray needs the ray extra", "pip install 'ftpipe[ray]'")


@click.command("status", cls=Command, example="ftpipe serve status --json")
@_data_dir
@pass_cli_context
def serve_status(context: CliContext, data_dir: Path | None) -> None:
    """Show whether the endpoint runs, and how to reach it; ends with 1 where it does not."""
    from ftpipe.server.control import status

    folder = data_dir or server_dir()
    seen = status(folder)
    context.add(**asdict(seen), data_dir=folder)
    if not seen.running:
        context.print_result(f"not running; its data lie in {sanitize_line(folder, 300)}")
        context.print_status(f"{context.style_err('bold', 'Next:')} ftpipe serve   (ftpipe train starts it by itself)")
        context.exit_code = 1
        return
    token = folder / "token"
    jobs = "unknown" if seen.jobs_open is None else f"{seen.jobs_running} running, {seen.jobs_open} open"
    rows = [
        (
            "running",
            f"{sanitize_line(seen.base_url or 'starting', 200)}{'' if seen.is_responding else ', but does not answer'}",
        ),
        ("process", f"{seen.pid}, since {format_time(seen.started_at)}"),
        ("jobs", jobs),
        ("data", sanitize_line(folder, 300)),
        ("key", f"in {sanitize_line(token, 300)}" if token.exists() else "any, or none"),
    ]
    context.print_result(format_fields(rows, paint=context.style))


@click.command(cls=Command, example="ftpipe serve stop")
@_data_dir
@pass_cli_context
def stop(context: CliContext, data_dir: Path | None) -> None:
    """Stop the running endpoint; unfinished jobs go on when it starts again."""
    from ftpipe.server.control import stop as stop_server

    stopped = stop_server(data_dir or server_dir())
    context.add(stopped=stopped)
    context.print_result("stopped" if stopped else "it was not running")


@click.command(cls=Command, example="ftpipe serve logs --follow")
@_data_dir
@click.option(
    "-n", "--lines", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many, from the end."
)
@click.option("-f", "--follow", is_flag=True, help="Stay, and show what comes.")
@pass_cli_context
def logs(context: CliContext, data_dir: Path | None, lines: int, follow: bool) -> None:
    """Show the end of the endpoint's log."""
    from ftpipe.server.control import logs as read_logs

    context.interrupt_message = "no longer following the log"
    found = read_logs(data_dir or server_dir(), lines=lines, follow=follow and not context.json)
    if context.json:
        context.add(lines=list(found))
    for line in found:
        context.print_result(sanitize_block(line))
