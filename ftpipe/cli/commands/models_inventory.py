"""``ftpipe models inventory``: everything that a key can see at a provider, and how long models will answer."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command
from ftpipe.formatting import plural, sanitize_line
from ftpipe.output_files import open_output

if TYPE_CHECKING:
    from ftpipe.records.inventory import Inventory

DEFAULT_PROVIDER = "openai"
MAX_DAYS = 3650
NOTICE_DAYS = 90
"""Days before a shutdown from which the move to another host is proposed."""


def number_of_days(text: str) -> int:
    """The number in ``30``, ``30d`` or ``4w``."""
    match = re.fullmatch(r"(\d{1,5})(d|w)?", text.strip().lower())
    days = int(match[1]) * (7 if match[2] == "w" else 1) if match else -1
    if not 0 <= days <= MAX_DAYS:
        raise click.BadParameter(f"{text[:40]!r} is not a number of days, for example 30d")
    return days


@click.command(
    "inventory",
    cls=Command,
    example="ftpipe models inventory\n"
    "ftpipe models inventory --provider openai --csv models.csv --calendar shutdowns.ics\n"
    "ftpipe models inventory --within 30d --quiet",
)
@click.option("--provider", metavar="NAME", help="Provider to list.  [default: the configured one, or openai]")
@click.option(
    "--within",
    type=number_of_days,
    metavar="DAYS",
    help="Exit with 1 if a model that answers is shut down within so many days, for example 30d.",
)
@click.option("--csv", "csv_file", type=shared.OUTPUT_FILE, metavar="FILE", help="Also write a table of everything.")
@click.option(
    "--calendar", type=shared.OUTPUT_FILE, metavar="FILE", help="Also write the dates for a calendar, as iCalendar."
)
@shared.trust_host
@pass_cli_context
def inventory(
    context: CliContext, provider: str | None, within: int | None, csv_file: Path | None, calendar: Path | None
) -> None:
    """List every tuned model, checkpoint, job and file that your key can see, with the days that are left.

    For each model: base, day of creation, day of its shutdown, tokens, whether its training data are still there, and
    what it costs to train again at the cheapest provider; --json has all providers, and every job and file. Jobs and
    models are added to the registry; doing that again changes nothing. At the provider nothing is changed.

    The shutdown date is what the provider says about the model or its base, else what ftpipe knows. The exit code is
    0, and with --within 1 if a model is shut down within that time. Models that were shut down before do not count. It
    is 5 if the lists cannot be read; if only some of them can, the rest is shown, and a warning says what is missing.
    """
    taken = take_inventory(context, provider)
    ending = taken.ending_within(within) if within is not None else ()
    write_files(context, taken, csv_file, calendar)
    show(context, taken)
    if within is not None:
        context.add(within_days=within, ending=[model.id for model in ending])
        context.print_status(f"{plural(len(ending), 'model')} shut down within {plural(within, 'day')}")
        context.exit_code = 1 if ending else 0


def take_inventory(context: CliContext, provider_name: str | None) -> Inventory:
    """Read everything at a provider, and add its jobs and models to the registry."""
    from ftpipe.cli.output.progress import item_progress
    from ftpipe.migration.inventory import Hosts, adopt_account, build_inventory, read_account
    from ftpipe.providers.profiles import load_profiles

    settings = context.settings({"provider": provider_name})
    provider = context.provider(settings.config.provider or DEFAULT_PROVIDER, settings)
    hosts = Hosts(load_profiles(settings.config.providers).values(), settings.config.prices)
    registry = context.registry(settings)
    now = time.time()
    with context.interruptible("interrupted; nothing was changed at the provider", "ftpipe models inventory"):
        with item_progress(context, "reading jobs", "request") as progress:
            listing = read_account(provider, now=now, on_progress=progress)
        for problem in adopt_account(listing, provider=provider, registry=registry, now=now):
            context.warn_once(problem)
        today = datetime.fromtimestamp(now, UTC).date()
        return build_inventory(listing, provider=provider, hosts=hosts, registry=registry, today=today)


def write_files(context: CliContext, taken: Inventory, csv_file: Path | None, calendar: Path | None) -> None:
    """Write the files that were requested."""
    from ftpipe.reports.calendar import calendar_document
    from ftpipe.reports.inventory import calendar_events, inventory_csv

    if csv_file is not None:
        with open_output(csv_file, force=context.force, flag="--csv") as file:
            file.write(inventory_csv(taken).encode())
        context.add(csv=csv_file)
        context.print_status(f"table: {sanitize_line(csv_file, 300)}")
    if calendar is not None:
        document = calendar_document(calendar_events(taken), now=datetime.now(UTC))
        with open_output(calendar, force=context.force, flag="--calendar") as file:
            file.write(document)
        context.add(calendar=calendar)
        context.print_status(f"calendar: {sanitize_line(calendar, 300)}")


def show(context: CliContext, taken: Inventory) -> None:
    """Write the inventory to stdout, and what can be done to stderr."""
    from ftpipe.reports.inventory import inventory_lines, notes

    hints = list(notes(taken))
    context.add(inventory=taken, notes=hints)
    context.print_result(inventory_lines(taken, context.style, width=context.width))
    for problem in taken.problems:
        context.warn_once(problem)
    context.print_status(hints)
    if taken.ending_within(NOTICE_DAYS):
        context.print_next(f"ftpipe leave --from {sanitize_line(taken.provider, 40)} --to HOST --dry-run")
