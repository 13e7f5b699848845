"""The providers behind ``ftpipe serve``, opened before it listens: a missing key or model is an error at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ftpipe.cli.context import CliContext
from ftpipe.errors import FtpipeError, UsageError
from ftpipe.formatting import sanitize_line
from ftpipe.gateway.routes import RegistryRoutes, ServedModel, parse_routes
from ftpipe.gateway.upstream import ProviderUpstream
from ftpipe.gateway.upstream_jobs import JobLimits
from ftpipe.providers import load_profiles, open_provider
from ftpipe.providers.profiles import Profile
from ftpipe.server.routes import ModelRoutes
from ftpipe.server.settings import ShadowPair

THIS_SERVER = "this server"


def open_routes(context: CliContext, values: Sequence[str], *, with_aliases: bool, data_dir: Path) -> RegistryRoutes:
    """Open the routes of a server, and say where each leads.

    A route of the command line must work. An alias need not: its provider may be one that this machine has no key for.

    Raises:
        UsageError: A route is not of the right form, or the registry does not know its model.
        FtpipeError: The provider of a route cannot be used.
    """
    settings, env = context.settings(), context.environment()
    names = parse_routes(values)
    routes = RegistryRoutes(
        context.registry(settings),
        names,
        with_aliases=with_aliases,
        providers=load_profiles(settings.config.providers),
        open_provider=lambda name: open_provider(name, profiles=settings.config.providers, env=env, start=False),
        own_endpoint=f"local:{data_dir}",
    )
    for name in routes.names(""):
        served = routes.served(name)
        if served is None:
            continue
        try:
            if not routes.is_own(served):
                context.provider(served.provider, settings, start=False)  # asks for a host that is not confirmed
                routes.provider_of(served)
        except FtpipeError as exc:
            if name in names:
                raise
            context.warn_once(f"the alias {name} is not served: {exc.message}")
            continue
        host = host_of(routes, served)
        context.print_status(f"{sanitize_line(name, 100)} → {sanitize_line(served.model, 150)} at {host}")
    return routes


def host_of(routes: RegistryRoutes, served: ServedModel) -> str:
    """Who serves a model."""
    return THIS_SERVER if routes.is_own(served) else served.provider


def refuse_shadow_of_same_model(
    routes: RegistryRoutes, values: Sequence[str], pairs: Iterable[ShadowPair], *, default_host: str
) -> None:
    """Refuse to compare a model with itself: its answers would agree, and say nothing about the old model.

    Args:
        routes: The routes of the server.
        values: The values of ``--route``.
        pairs: The pairs of ``--shadow``.
        default_host: Who answers chats with a name that has no route.

    Raises:
        UsageError: Both models of a pair are the same one.
    """

    def model_behind(name: str) -> tuple[str, str]:
        served = routes.served(name)
        return (default_host, name) if served is None else (host_of(routes, served), served.model)

    targets = parse_routes(values)
    for pair in pairs:
        if targets.get(pair.old) == pair.new or model_behind(pair.old) == model_behind(pair.new):
            option = next((f"--route {name}={targets[name]}" for name in (pair.old, pair.new) if name in targets), "")
            raise UsageError(
                f"with {option or '--aliases'}, --shadow {pair.old}={pair.new} would compare a model with itself",
                "name another model in --shadow, or leave out the route, so that callers get the old model's answers",
            )


def provider_upstream(
    context: CliContext,
    name: str,
    *,
    model: str | None,
    max_cost: float | None,
    max_total_cost: float | None,
    no_cost_limit: bool,
    routes: ModelRoutes | None,
) -> ProviderUpstream:
    """Open the provider, so that a missing key is an error at once, and check the limits.

    Args:
        context: Opens it.
        name: Its name.
        model: Base model for jobs that name one of OpenAI's.
        max_cost: What one job may cost.
        max_total_cost: What all jobs may cost together.
        no_cost_limit: Whether they may cost anything.
        routes: Routes of the command line.

    Raises:
        UsageError: A paid provider has no limit, or jobs would be trained on this machine anyway.
    """
    settings, env = context.settings(), context.environment()
    if name == "local":
        raise UsageError("jobs are trained on this machine without --upstream", "leave out --upstream local")
    profile = context.provider(name, settings, start=False).profile
    limits = job_limits(profile, max_cost, max_total_cost, no_cost_limit=no_cost_limit)
    title = profile.title or name
    if limits.total is None:
        context.print_status(f"jobs are created at {title}, without a limit of their cost")
    else:
        single = "" if limits.per_job is None else f", each at most {limits.per_job:g}"
        context.print_status(f"jobs are created at {title} for at most {limits.total:g} together{single}")
    return ProviderUpstream(
        profile=profile,
        open_provider=lambda: open_provider(name, profiles=settings.config.providers, env=env, start=False),
        default_model=model or profile.default_model,
        limits=limits,
        key=env.get(profile.key_env, ""),
        prices=settings.config.prices,
        named=routes,
    )


def job_limits(
    profile: Profile, max_cost: float | None, max_total_cost: float | None, *, no_cost_limit: bool
) -> JobLimits:
    """What jobs may cost; a provider that is paid needs a total, because clients can create any number of jobs.

    Raises:
        UsageError: There is no total and no word that there shall be none, or both.
    """
    if no_cost_limit and (max_total_cost is not None or max_cost is not None):
        raise UsageError("--no-cost-limit and a cost limit were given", "leave one of them out")
    if profile.paid and max_total_cost is None and not no_cost_limit:
        raise UsageError(
            f"every client of this server could spend your money at {profile.title or profile.name} without a limit",
            "add --max-total-cost AMOUNT, and --max-cost AMOUNT for a single job, or --no-cost-limit",
        )
    return JobLimits(per_job=max_cost, total=max_total_cost)
