"""Ask once before a host that a configuration file names gets a key or data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import click

from ftpipe.config import Settings, flag_of, user_path
from ftpipe.errors import ConfigError, InterruptedRunError, UsageError
from ftpipe.formatting import sanitize_line
from ftpipe.providers.address import Address, find_address, is_trusted, parse_host, remember_host


@dataclass(frozen=True, kw_only=True)
class HostPrompt:
    """How a command can ask for a host."""

    trusted_hosts: Iterable[str]
    """From ``--trust-host``."""
    can_ask: bool
    """Whether there is a terminal."""
    print_line: Callable[[str], None]
    """Shows a line."""


def confirm_host(name: str, settings: Settings, env: Mapping[str, str], prompt: HostPrompt) -> None:
    """Remember the hosts of ``--trust-host``, and ask for the provider's host on a terminal if it is not trusted.

    Without a terminal nothing is asked, and ``open_provider`` refuses the host. A host without TLS is never asked for:
    it needs the option.

    Raises:
        UsageError: The answer was no.
        InterruptedRunError: Ctrl-C was pressed.
    """
    address = find_address(name, settings.config.providers, env)
    if address is not None:
        key = f", with the key in {address.key_env}" if address.key_env else ""
        _confirm(address, f"{address.source} sends the requests of {name} to {address.origin}{key}.", env, prompt)


def confirm_registry(settings: Settings, env: Mapping[str, str], prompt: HostPrompt) -> None:
    """Do the same for the database server of the registry, if ``ftpipe.toml`` or ``.env`` names it.

    Raises:
        ConfigError: The host is not confirmed, and there is no terminal; or the URL hides its host.
        UsageError: The answer was no.
        InterruptedRunError: Ctrl-C was pressed.
    """
    from ftpipe.registry.database import server_origin

    named_by = settings.origins.get("registry")
    is_own = named_by in (flag_of("registry"), str(user_path())) or bool(os.environ.get("FTPIPE_REGISTRY"))
    if not settings.config.registry or is_own:
        return
    origin = server_origin(settings.config.registry)
    if not origin:
        return
    source = f"{named_by} in .env" if named_by == "FTPIPE_REGISTRY" else f"registry in {named_by}"
    address = Address(url=origin, origin=origin, source=source, needs_trust=True)
    password = " with the password in PGPASSWORD" if env.get("PGPASSWORD") else ""
    _confirm(address, f"{source} stores runs and models at {origin}{password}.", env, prompt)
    if not is_trusted(address, env):
        raise ConfigError(
            f"{source} stores runs and models at {origin}{password}; you have not confirmed this host",
            f"if it is the right one, run `ftpipe doctor --trust-host {origin}`; it is remembered",
        )


def _confirm(address: Address, sentence: str, env: Mapping[str, str], prompt: HostPrompt) -> None:
    for host in prompt.trusted_hosts:
        if parse_host(host) == address.origin:
            remember_host(address.origin)
    if is_trusted(address, env) or address.is_plain or not prompt.can_ask:
        return
    prompt.print_line(sanitize_line(sentence, 300))
    try:
        is_confirmed = click.confirm(f"Trust {address.origin} from now on?", err=True)
    except click.Abort as exc:
        raise InterruptedRunError("interrupted; nothing was sent") from exc
    if not is_confirmed:
        raise UsageError("the host was not confirmed: nothing was sent", "remove it from the configuration file")
    prompt.print_line(f"remembered in {remember_host(address.origin)}")


def provider_title(name: str, settings: Settings, env: Mapping[str, str]) -> str:
    """The title of a provider with the host that gets the requests, for plans and questions."""
    from ftpipe.providers.profiles import find_profile

    profile = find_profile(name, settings.config.providers)
    address: Address | None = find_address(name, settings.config.providers, env)
    title = profile.title or profile.name
    return f"{title} ({address.origin})" if address else title
