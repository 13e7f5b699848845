"""``ftpipe doctor``: check everything that ftpipe needs, with a hint for each problem; repair the registry."""

from __future__ import annotations

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import LOCAL_PROVIDER
from ftpipe.cli.group import Command
from ftpipe.config import Settings
from ftpipe.doctor.offline_checks import CheckResult, run_offline_checks
from ftpipe.doctor.online_checks import run_online_checks
from ftpipe.formatting import plural, sanitize_line
from ftpipe.paths import default_registry, server_dir

_SYMBOLS = {"ok": ("ok", "✓"), "warning": ("warning", "!"), "error": ("error", "✗"), "not configured": ("dim", "–")}


@click.command(cls=Command, example="ftpipe doctor\nftpipe doctor --online --provider openai")
@click.option("--online", is_flag=True, help="Also check the provider: connection, key, training.")
@click.option("--provider", metavar="NAME", help="Provider to check.  [default: the configured one, or local]")
@click.option(
    "--repair",
    "repair_first",
    is_flag=True,
    help="Move a damaged registry aside and rebuild it from its copy and the provider's jobs.",
)
@shared.trust_host
@pass_cli_context
def doctor(context: CliContext, online: bool, provider: str | None, repair_first: bool) -> None:
    """Check everything that ftpipe needs.

    The exit code is 1 if a check fails. Only --repair changes anything, and nothing is ever deleted.
    """
    settings = context.settings({"provider": provider})
    if repair_first:
        repair(context, settings)
    results = [show(context, result) for result in run_offline_checks(settings, lambda: context.registry(settings))]
    if online:
        name = settings.config.provider or LOCAL_PROVIDER
        results += [show(context, result) for result in run_online_checks(settings, name, context.environment())]
    errors = sum(result.status == "error" for result in results)
    warnings = sum(result.status == "warning" for result in results)
    context.exit_code = 1 if errors else 0
    context.add(checks=[vars(result) for result in results], errors=errors, warnings=warnings)
    context.print_status(f"\n{plural(errors, 'error')}, {plural(warnings, 'warning')}")


def show(context: CliContext, result: CheckResult) -> CheckResult:
    """Print the result of a check, and below it the hint."""
    style, symbol = _SYMBOLS[result.status]
    message = sanitize_line(context.redact(result.message), 300)
    context.print_result(f"{context.style(style, symbol)} {result.name:<10} {message}")
    if result.hint:
        context.print_result(f"  {'':<10} {context.style('dim', '→ ' + sanitize_line(result.hint, 300))}")
    return result


def repair(context: CliContext, settings: Settings) -> None:
    """Repair the registry and print what was done."""
    from ftpipe.doctor.repair import repair_registry

    name = settings.config.provider or LOCAL_PROVIDER
    has_registry = bool(settings.config.registry) or default_registry().exists()
    may_start = not has_registry and server_dir().is_dir()
    result = repair_registry(
        settings,
        open_registry=lambda: context.registry(settings),
        open_provider=lambda is_damaged: context.provider(name, settings, start=is_damaged or may_start),
        on_status=lambda text: context.print_status(sanitize_line(text, 300)),
    )
    if result.quarantined is not None:
        context.add(moved_to=result.quarantined)
    context.add(adopted=[run.id for run in result.runs])
    if result.quarantined is None and has_registry and not result.runs:
        context.print_status("nothing to repair\n")
    else:
        context.print_status(f"{plural(len(result.runs), 'job')} of {name} in the registry\n")
