"""``ftpipe doctor``: a line for everything that ftpipe needs, with what to do where it is not in order."""

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
@click.option("--online", is_flag=True, help="Ask the provider, too: does it answer, does it take the key.")
@click.option("--provider", metavar="NAME", help="Which one to ask; the configured one or local where not given.")
@click.option(
    "--repair", is_flag=True, help="Move a damaged registry aside; rebuild it from its copy and the provider's jobs."
)
@pass_cli_context
def doctor(context: CliContext, online: bool, provider: str | None, repair: bool) -> None:
    """Look at everything that ftpipe needs; ends with 1 where something is broken.

    Nothing is changed, but by --repair, and nothing is ever deleted.
    """
    settings = context.settings({"provider": provider})
    if repair:
        repair_registry(context, settings)
    found: list[CheckResult] = []
    for finding in run_offline_checks(settings, lambda: context.registry(settings)):
        found.append(show(context, finding))
    if online:
        name = settings.config.provider or LOCAL_PROVIDER
        found += [show(context, finding) for finding in run_online_checks(settings, name, context.environment())]
    context.add(checks=[vars(finding) for finding in found])
    bad = sum(finding.status == "bad" for finding in found)
    context.exit_code = 1 if bad else 0
    context.add(broken=bad)
    warned = sum(finding.status == "warn" for finding in found)
    verdict = f"{plural(bad, 'thing is', 'things are')} broken" if bad else "nothing is broken"
    context.print_status(f"\n{verdict}" + (f", {plural(warned, 'warning')}" if warned else ""))


def show(context: CliContext, finding: CheckResult) -> CheckResult:
    """Write one line, and under it what to do."""
    style, mark = _MARKS[finding.status]
    context.print_result(
        f"{context.style(style, mark)} {finding.name:<10} {sanitize_line(context.redact(finding.message), 300)}"
    )
    if finding.hint:
        context.print_result(f"  {'':<10} {context.style('dim', '→ ' + sanitize_line(finding.hint, 300))}")
    return finding


def repair_registry(context: CliContext, settings: Settings) -> None:
    """Move the registry aside if it is damaged; take what its copy tells and the provider lists into a new one.

    Raises:
        UsageError: The registry is a database server's, which has its own tools.
    """
    from ftpipe.doctor.repair import quarantine_database, read_everything, rebuild

    named = settings.config.registry or str(state_dir() / "registry.db")
    if "://" in named and not named.startswith("sqlite:///"):
        raise UsageError("the registry is on a database server", "restore it with the server's own tools")
    path = Path(named.removeprefix("sqlite:///"))
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
    except FtpipeError as error:  # without a key the rest of the repair is still worth having
        context.print_status(f"{name} is not asked: {sanitize_line(error.message, 300)}")
        providers = []
    runs = rebuild(
        context.registry(settings), providers, on_status=lambda text: context.print_status(sanitize_line(text, 300))
    )
    context.add(adopted=[run.id for run in runs])
    context.print_status(f"{plural(len(runs), 'job')} of {name} in the registry\n")
