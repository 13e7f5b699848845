"""``ftpipe doctor``: check everything that ftpipe needs, with a hint for each problem; repair the registry."""

from __future__ import annotations

from pathlib import Path

import click

from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import LOCAL_PROVIDER
from ftpipe.cli.group import Command
from ftpipe.config import Settings
from ftpipe.doctor.offline_checks import CheckResult, run_offline_checks
from ftpipe.doctor.online_checks import run_online_checks
from ftpipe.errors import FtpipeError, LocalStateError, UsageError
from ftpipe.formatting import plural, sanitize_line
from ftpipe.paths import state_dir

_MARKS = {"ok": ("ok", "✓"), "warn": ("warning", "!"), "bad": ("error", "✗")}


@click.command(cls=Command, example="ftpipe doctor\nftpipe doctor --online --provider openai")
@click.option("--online", is_flag=True, help="Also check the provider: connection, key, training.")
@click.option("--provider", metavar="NAME", help="Provider to check.  [default: the configured one, or local]")
@click.option(
    "--repair", is_flag=True, help="Move a damaged registry aside and rebuild it from its copy and the provider's jobs."
)
@pass_cli_context
def doctor(context: CliContext, online: bool, provider: str | None, repair: bool) -> None:
    """Check everything that ftpipe needs.

    The exit code is 1 if something is broken. Only --repair changes anything, and nothing is ever deleted.
    """
    settings = context.settings({"provider": provider})
    if repair:
        repair_registry(context, settings)
    results = [show(context, one) for one in run_offline_checks(settings, lambda: context.registry(settings))]
    if online:
        name = settings.config.provider or LOCAL_PROVIDER
        results += [show(context, one) for one in run_online_checks(settings, name, context.environment())]
    context.add(checks=[vars(result) for result in results])
    bad = sum(result.status == "bad" for result in results)
    context.exit_code = 1 if bad else 0
    context.add(broken=bad)
    warnings = sum(result.status == "warn" for result in results)
    verdict = f"{plural(bad, 'thing is', 'things are')} broken" if bad else "nothing is broken"
    context.print_status(f"\n{verdict}" + (f", {plural(warnings, 'warning')}" if warnings else ""))


def show(context: CliContext, result: CheckResult) -> CheckResult:
    """Write the result of one check, and its hint."""
    style, mark = _MARKS[result.status]
    context.print_result(
        f"{context.style(style, mark)} {result.name:<10} {sanitize_line(context.redact(result.message), 300)}"
    )
    if result.hint:
        context.print_result(f"  {'':<10} {context.style('dim', '→ ' + sanitize_line(result.hint, 300))}")
    return result


def repair_registry(context: CliContext, settings: Settings) -> None:
    """Move a damaged registry aside, and rebuild it from its copy and the jobs of the provider.

    Raises:
        UsageError: The registry is on a database server.
    """
    from ftpipe.doctor.repair import quarantine_database, read_everything, rebuild

    location = settings.config.registry or str(state_dir() / "registry.db")
    if "://" in location and not location.startswith("sqlite:///"):
        raise UsageError("the registry is on a database server", "restore it with the server's own tools")
    path = Path(location.removeprefix("sqlite:///"))
    try:
        read_everything(context.registry(settings))
    except LocalStateError as error:
        context.print_status(sanitize_line(error.message, 300))
        aside = quarantine_database(path)
        context.add(moved_to=aside)
        context.print_status(f"moved it to {sanitize_line(aside, 300)}")
    name = settings.config.provider or LOCAL_PROVIDER
    try:
        providers = [context.provider(name, settings)]
    except FtpipeError as error:  # without a key, the copy is still used
        context.print_status(f"skipping {name}: {sanitize_line(error.message, 300)}")
        providers = []
    runs = rebuild(
        context.registry(settings), providers, on_status=lambda text: context.print_status(sanitize_line(text, 300))
    )
    context.add(adopted=[run.id for run in runs])
    context.print_status(f"{plural(len(runs), 'job')} of {name} in the registry\n")
