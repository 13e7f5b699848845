"""``ftpipe models bases``: the base models that can be trained, here or at a provider."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import LOCAL_PROVIDER
from ftpipe.cli.group import Command
from ftpipe.config import Settings
from ftpipe.paths import models_dir
from ftpipe.providers.profiles import Profile, find_profile
from ftpipe.reports.trainable_bases import MEMORY_NOTE, hosted_table, local_table

if TYPE_CHECKING:
    from ftpipe.records.trainable_base import TrainableBase


@click.command("bases", cls=Command, example="ftpipe models bases\nftpipe models bases --provider openai --json")
@click.option("--provider", metavar="NAME", help="Whose base models.  [default: the configured provider, or local]")
@click.option("--online", is_flag=True, help="Also ask a hosted provider which models it lists for your key.")
@shared.trust_host
@pass_cli_context
def bases(context: CliContext, provider: str | None, online: bool) -> None:
    """List the base models that can be trained: size, licence, price, context, last day, and memory needed here.

    For local: those on this machine, and a selection of those that it can fetch; any other model of the Hugging Face
    hub of a supported family works as well. For a hosted provider: those that ftpipe knows.
    """
    settings = context.settings({"provider": provider})
    profile = find_profile(settings.config.provider or LOCAL_PROVIDER, settings.config.providers)
    if profile.name == LOCAL_PROVIDER:
        show_local(context, settings, profile)
    else:
        show_hosted(context, settings, profile, online=online)


def show_local(context: CliContext, settings: Settings, profile: Profile) -> None:
    """Show the base models of this machine, and those that it can fetch."""
    from ftpipe.catalog.trainable_bases import local_bases
    from ftpipe.catalog.training_prices import PriceTable

    prices = PriceTable.load(settings.config.prices, target=profile.target)
    listed = local_bases(models_dir(), prices, default=profile.default_model)
    context.add(provider=profile.name, bases=listed)
    context.print_result(local_table(listed, context.style, width=context.width))
    context.print_status(MEMORY_NOTE)
    context.print_next("ftpipe train FILE --model NAME")


def show_hosted(context: CliContext, settings: Settings, profile: Profile, *, online: bool) -> None:
    """Show the base models that are known of a provider; those that were shut down are counted."""
    from ftpipe.catalog.trainable_bases import hosted_bases
    from ftpipe.catalog.training_prices import PriceTable

    names = context.provider(profile.name, settings).models.names() if online else None
    found = hosted_bases(
        profile.name,
        profile.target,
        PriceTable.load(settings.config.prices, target=profile.target),
        default=profile.default_model,
        last_day_to_create=profile.last_day_to_create,
        listed=names,
    )
    today = datetime.now(UTC).date().isoformat()
    known = list(found)
    listed: list[TrainableBase] = [base for base in known if base.last_day is None or base.last_day >= today]
    context.add(provider=profile.name, bases=listed)
    context.print_result(hosted_table(listed, context.style, width=context.width) if listed else [])
    if len(listed) < len(known):
        context.print_status(f"left out, because no job can be created any more: {len(known) - len(listed)}")
    if not listed:
        hint = "" if online else "; --online asks it for its list"
        context.print_status(f"no base model of {profile.title or profile.name} is known{hint}")
    else:
        context.print_next(f"ftpipe train FILE --provider {profile.name} --model NAME")
