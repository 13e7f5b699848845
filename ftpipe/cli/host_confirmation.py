"""Ask once before a host that a configuration file names gets a key or data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import click

from ftpipe.config import Settings
from ftpipe.errors import InterruptedRunError, UsageError
from ftpipe.formatting import sanitize_line
from ftpipe.providers.address import Address, find_address, is_trusted, parse_host, remember_host


def confirm_host(
    name: str,
    settings: Settings,
    env: Mapping[str, str],
    *,
    trusted_hosts: Iterable[str],
    can_ask: bool,
    print_line: Callable[[str], None],
) -> None:
    """Remember the hosts of ``--trust-host``, and ask for the provider's host on a terminal if it is not trusted.

    Without a terminal nothing is asked, and ``open_provider`` refuses the host. A host without TLS is never asked for:
    it needs the option.

    Args:
        name: The provider.
        settings: The configuration.
        env: Environment variables.
        trusted_hosts: From ``--trust-host``.
        can_ask: Whether there is a terminal.
        print_line: Shows a line.

    Raises:
        UsageError: The answer was no.
        InterruptedRunError: Ctrl-C was pressed.
    """
    address = find_address(name, settings.config.providers, env)
    for host in trusted_hosts:
        if address is not None and parse_host(host) == address.origin:
            remember_host(address.origin)
    if address is None or is_trusted(address, env) or address.is_plain or not can_ask:
        return
    key = f", with the key in {address.key_env}" if address.key_env else ""
    print_line(sanitize_line(f"{address.source} sends the requests of {name} to {address.origin}{key}.", 300))
    try:
        is_confirmed = click.confirm(f"Trust {address.origin} from now on?", err=True)
    except click.Abort as exc:
        raise InterruptedRunError("interrupted; nothing was sent") from exc
    if not is_confirmed:
        raise UsageError(
            "the host was not confirmed: nothing was sent", "remove its base_url from the configuration file"
        )
    print_line(f"remembered in {remember_host(address.origin)}")


def provider_title(name: str, settings: Settings, env: Mapping[str, str]) -> str:
    """The title of a provider with the host that gets the requests, for plans and questions."""
    from ftpipe.providers.profiles import find_profile

    profile = find_profile(name, settings.config.providers)
    address: Address | None = find_address(name, settings.config.providers, env)
    title = profile.title or profile.name
    return f"{title} ({address.origin})" if address else title
