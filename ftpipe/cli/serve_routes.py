"""The routes of ``ftpipe serve``: checked before it listens, so that a missing key or model is an error at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ftpipe.cli.context import CliContext
from ftpipe.errors import FtpipeError
from ftpipe.formatting import sanitize_line

if TYPE_CHECKING:
    from ftpipe.gateway.routes import RegistryRoutes


def open_routes(
    context: CliContext, values: Sequence[str], *, with_aliases: bool, data_dir: Path
) -> RegistryRoutes | None:
    """Open the routes of a server, and say where each leads; ``None`` if there are none.

    A route of the command line must work. An alias need not: its provider may be one that this machine has no key for.

    Raises:
        UsageError: A route is not of the right form, or the registry does not know its model.
        FtpipeError: The provider of a route cannot be used.
    """
    if not values and not with_aliases:
        return None
    from ftpipe.gateway.routes import RegistryRoutes, parse_routes
    from ftpipe.providers import load_profiles, open_provider

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
        host = "this server" if routes.is_own(served) else served.provider
        context.print_status(f"{sanitize_line(name, 100)} → {sanitize_line(served.model, 150)} at {host}")
    return routes
