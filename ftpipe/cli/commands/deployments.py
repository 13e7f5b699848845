"""``ftpipe deployments``: what serves tuned models at hosts that bill for it per hour."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command, Group
from ftpipe.errors import CostLimitError, NotFoundError, UsageError
from ftpipe.formatting import sanitize_line
from ftpipe.records.deployment import Deployment, DeploymentOption
from ftpipe.reports.deployments import deployment_table, option_line, price_text

if TYPE_CHECKING:
    from ftpipe.config import Settings
    from ftpipe.registry import Registry
    from ftpipe.stages.deploy import DeployModel

deployments = Group(
    name="deployments",
    help="Deploy tuned models at hosts that bill for it per hour, and stop them.",
    lazy={
        "create": ("ftpipe.cli.commands.deployments:create", "Deploy a model, so that it answers; billed per hour."),
        "list": ("ftpipe.cli.commands.deployments:list_deployments", "List deployments and what they cost per hour."),
        "stop": ("ftpipe.cli.commands.deployments:stop", "Stop a deployment, so that it costs nothing any more."),
    },
    example="ftpipe deployments create support-bot@production --max-hourly 6\n"
    "ftpipe deployments stop ftpipe-0123456789ab",
)


@dataclass(frozen=True)
class DeploymentTarget:
    """A model and the stage that deploys it."""

    stage: DeployModel
    settings: Settings


def target_of(context: CliContext, model: str) -> DeploymentTarget:
    """The stage for a model of the registry."""
    from ftpipe.stages.deploy import DeployModel

    settings = context.settings()
    registry = context.registry(settings)
    record = registry.models.get(model)
    provider = context.provider(record.provider, settings)
    sleep = context.pipeline(provider, registry).sleep
    stage = DeployModel(record, provider, registry, on_status=context.print_status, sleep=sleep)
    return DeploymentTarget(stage, settings)


@click.command(cls=Command, example="ftpipe deployments create support-bot@production --max-hourly 6")
@click.argument("model")
@click.option("--hardware", metavar="NAME", help="Hardware from the list that is shown.  [default: the cheapest]")
@click.option("--max-hourly", type=shared.NumberRange(min=0), metavar="USD", help="Stop if an hour costs more.")
@click.option("-y", "--yes", is_flag=True, help="Spend money without asking.")
@click.option("-n", "--dry-run", is_flag=True, help="Show the hardware and its price, and stop.")
@click.option("--detach", is_flag=True, help="Return when the deployment is created, before the model answers.")
@shared.trust_host
@pass_cli_context
def create(
    context: CliContext,
    model: str,
    hardware: str | None,
    max_hourly: float | None,
    yes: bool,
    dry_run: bool,
    detach: bool,
) -> None:
    """Deploy MODEL (a name, alias or job id), so that it answers to chats. It is billed until it is stopped."""
    target = target_of(context, model)
    stage = target.stage
    with (
        stage.registry.lock(stage.name),
        context.interruptible(f"interrupted; {stage.name} may be billed", f"ftpipe deployments stop {stage.name}"),
    ):
        if (running := stage.existing()) is not None:
            context.print_status("it is deployed already")
            show(context, running)
            return
        options = stage.options()
        option = choose_option(options, hardware)
        context.print_status([option_line(one, is_chosen=one == option) for one in options])
        check_price(option, max_hourly)
        context.add(options=options)
        if dry_run:
            return
        if not yes:
            context.confirm(f"Pay {price_text(option.price_per_hour)} for {option.hardware} until it is stopped?")
        deployment = stage.run(option)
        if not detach:
            context.print_status("waiting until it answers; Ctrl-C does not stop it")
            deployment = stage.wait_until_ready(deployment)
    show(context, deployment)


def choose_option(options: list[DeploymentOption], hardware: str | None) -> DeploymentOption:
    """The option with that hardware, or the cheapest.

    Raises:
        UsageError: There is no such hardware.
    """
    if hardware is None:
        return options[0]
    found = next((one for one in options if one.hardware.lower() == hardware.lower()), None)
    if found is None:
        raise UsageError(
            f"the model cannot be served on {hardware!r}", f"choose from: {', '.join(one.hardware for one in options)}"
        )
    return found


def check_price(option: DeploymentOption, max_hourly: float | None) -> None:
    """Refuse an hourly price over the limit, or one that is not known.

    Raises:
        CostLimitError: As above.
    """
    if max_hourly is None:
        return
    if option.price_per_hour is None or option.price_per_hour > max_hourly:
        raise CostLimitError(
            f"{option.hardware} costs {price_text(option.price_per_hour)}, and the limit is {max_hourly:g} USD",
            "choose other --hardware, or raise --max-hourly; nothing was created",
        )


def show(context: CliContext, deployment: Deployment) -> None:
    """Show a deployment, and how to chat with it and stop it."""
    context.add(deployment=deployment)
    context.print_result(deployment_table([deployment], now=time.time(), width=context.width, style=context.style))
    context.print_next(f"ftpipe chat {deployment.model}   or   ftpipe deployments stop {deployment.name}")


@click.command("list", cls=Command, example="ftpipe deployments list\nftpipe deployments list --provider together")
@click.option("--provider", metavar="NAME", help="Ask this provider.  [default: what the registry knows]")
@shared.trust_host
@pass_cli_context
def list_deployments(context: CliContext, provider: str | None) -> None:
    """List deployments with their state and price per hour. Only with --provider the host is asked."""
    settings = context.settings({"provider": provider})
    registry = context.registry(settings, read_only=True)
    listed = registry.deployments.recent()
    if provider:
        host = context.provider(provider, settings).deployments
        models = {one.name: one.model for one in listed}
        listed = [
            one.model_copy(update={"model": models.get(one.name, one.model)}) for one in (host.list() if host else [])
        ]
    context.add(deployments=listed)
    table = deployment_table(listed, now=time.time(), width=context.width, style=context.style)
    context.print_result(table if listed else [])
    if not listed:
        context.print_status("no deployments; `ftpipe deployments create MODEL` makes one")


@click.command(cls=Command, example="ftpipe deployments stop ftpipe-0123456789ab")
@click.argument("name")
@click.option("--provider", metavar="NAME", help="Provider of a deployment that the registry does not know.")
@shared.trust_host
@pass_cli_context
def stop(context: CliContext, name: str, provider: str | None) -> None:
    """Stop the deployment NAME (or that of a model), so that it costs nothing any more; the model stays."""
    settings = context.settings({"provider": provider})
    registry = context.registry(settings)
    known = known_deployment(registry, name)
    if known is None and provider is None:
        raise UsageError(
            f"the registry has no deployment {name!r}",
            "`ftpipe deployments list` lists them; name the provider of another one with --provider",
        )
    host = context.provider(known.provider if known else provider or "", settings)
    if host.deployments is None:
        raise UsageError(f"nothing is deployed at {host.profile.name}", "`ftpipe deployments list` lists deployments")
    if known is not None and known.endpoint != host.endpoint:
        raise UsageError(
            f"{known.name} is at {known.endpoint}, and {known.provider} now leads to {host.endpoint}",
            "use the address and project with which it was deployed",
        )
    target = known.name if known else name
    with context.interruptible(f"interrupted; {target} may still be billed", f"ftpipe deployments stop {target}"):
        try:
            stopped = host.deployments.stop(target)
        except NotFoundError:
            if known is None:
                raise
            stopped = known
    deployment = (known or stopped).model_copy(update={"state": "stopped"})
    if known is not None:
        registry.deployments.save(deployment)
    context.add(deployment=deployment)
    context.print_result(f"{sanitize_line(deployment.name, 80)}  {deployment.state}")


def known_deployment(registry: Registry, name: str) -> Deployment | None:
    """The deployment of that name, of that model, or of the model with that alias or job; it may have been deleted."""
    models = {model.id for model in registry.models.recent() if name in (model.id, model.job_id, *model.aliases)}
    matching = (one for one in registry.deployments.recent() if one.name == name or one.model in {name, *models})
    return next(matching, None)
