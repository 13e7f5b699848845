"""Where the requests of a provider go, who chose that address, and whether it can get a key or data.

``ftpipe.toml`` is found in the working directory, and that can be a folder that somebody else made. So an address from
that file gets nothing before the user has confirmed it once. The confirmed hosts are in the user's own folder.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import read_json, write_json
from ftpipe.errors import AuthenticationError, ConfigError, LocalStateError
from ftpipe.paths import home
from ftpipe.providers.profiles import Profile, builtin_profiles, find_profile

TRUSTED_HOSTS_VARIABLE = "FTPIPE_TRUSTED_HOSTS"
"""Hosts to trust, separated by spaces or commas."""
TRUSTED_HOSTS_FILE = "trusted-hosts.json"
_URL = re.compile(
    r"(?P<scheme>https?)://(?:[^@/\\?#\s]*@)?(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>\d{1,5}))?"
    r"(?:/[^\\\s#]*)?(?:\?[^\\\s#]*)?",
    re.IGNORECASE | re.ASCII,
)
"""Strict, so that every program reads the same host from such a URL."""
_DATABASE_ORIGIN = re.compile(r"postgresql://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?/?", re.IGNORECASE | re.ASCII)
_DEFAULT_PORTS = {"http": "80", "https": "443"}


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a provider's API."""

    url: str
    origin: str
    """Scheme, host, and the port if it is not the default: ``https://api.openai.com``."""
    source: str
    """Who named it: an environment variable, ``[providers.NAME]``, or ``ftpipe`` for a built-in address."""
    needs_trust: bool
    """Whether a configuration file named it; not for a new provider on this machine that gets no key."""
    key_env: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether others on the way could read key and data: HTTP without TLS beyond this machine."""
        return is_plain(self.origin)


def find_address(name: str, profiles: Mapping[str, Mapping[str, Any]] | None, env: Mapping[str, str]) -> Address | None:
    """The address of a provider; ``None`` if none is configured, as for the embedded server of this machine.

    Args:
        name: The provider.
        profiles: The configuration's ``[providers.*]`` tables.
        env: Environment variables.

    Raises:
        ConfigError: There is no such provider, or its address is not a URL.
    """
    profile = find_profile(name, profiles)
    table = (profiles or {}).get(name, {})
    named_by = profile.base_url_env if env.get(profile.base_url_env) else ""
    url = configured_url(profile, env)
    if not url:
        return None
    origin = origin_of(url)
    is_from_file = "base_url_env" in table if named_by else "base_url" in table
    return Address(
        url=url,
        origin=origin,
        source=named_by or (f"[providers.{name}] in the configuration file" if is_from_file else "ftpipe"),
        needs_trust=is_from_file and (bool(profile.key_env) or name in builtin_profiles() or not _is_loopback(origin)),
        key_env=profile.key_env,
    )


def configured_url(profile: Profile, env: Mapping[str, str]) -> str:
    """The root of the API that a variable or the profile names; empty if neither does."""
    return env.get(profile.base_url_env, "") or profile.base_url


def required_url(profile: Profile, env: Mapping[str, str]) -> str:
    """The root of the API of a host.

    Raises:
        ConfigError: Neither a variable nor the profile names it.
    """
    url = configured_url(profile, env)
    if not url:
        raise ConfigError(
            f"no base URL is known for provider {profile.name!r}",
            f"set {profile.base_url_env or 'base_url'}, or base_url under [providers.{profile.name}] in ftpipe.toml",
        )
    return url


def required_key(profile: Profile, env: Mapping[str, str]) -> str:
    """The key of a host, from its variable.

    Raises:
        AuthenticationError: The variable is not set.
    """
    key = env.get(profile.key_env, "")
    if not key:
        raise AuthenticationError(
            f"no API key for {profile.title or profile.name}: {profile.key_env} is not set",
            f"export {profile.key_env}=… (or put it into .env), or train without a key: --provider local",
        )
    return key


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL, as they are shown and compared.

    Raises:
        ConfigError: It is not an http or https URL.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise ConfigError(f"{url[:200]!r} is not an http(s) URL", "write it like https://api.example.com/v1")
    scheme, host, port = match["scheme"].lower(), match["host"].lower(), match["port"]
    return f"{scheme}://{host}" + (f":{port}" if port and port != _DEFAULT_PORTS[scheme] else "")


def require_trusted(address: Address, env: Mapping[str, str]) -> None:
    """Refuse an address that could get a key or data without the user's knowledge.

    Raises:
        ConfigError: It needs trust and has none, or it is not encrypted and was not allowed.
    """
    if is_trusted(address, env):
        return
    if address.is_plain:
        raise ConfigError(
            f"{address.origin} is not encrypted: key and data could be read on the way",
            f"use https, or add --trust-host {address.origin} to use it anyway",
        )
    key = f" and would get {address.key_env}" if address.key_env else ""
    raise ConfigError(
        f"{address.source} sends requests to {address.origin}{key}; you have not confirmed this host",
        f"if it is the right one, add --trust-host {address.origin}; it is remembered",
    )


def is_trusted(address: Address, env: Mapping[str, str]) -> bool:
    """Whether requests can be sent to an address."""
    if not address.needs_trust and not address.is_plain:
        return True
    return address.origin in {*_origins(re.split(r"[\s,]+", env.get(TRUSTED_HOSTS_VARIABLE, ""))), *remembered_hosts()}


def remembered_hosts() -> list[str]:
    """The origins that the user has confirmed before."""
    hosts = (read_json(home() / TRUSTED_HOSTS_FILE) or {}).get("hosts")
    return [host for host in hosts if isinstance(host, str)] if isinstance(hosts, list) else []


def remember_host(origin: str) -> Path:
    """Add an origin to the confirmed ones in the user's folder, and return the file.

    Raises:
        LocalStateError: The file cannot be written.
    """
    path = home() / TRUSTED_HOSTS_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(path, {"hosts": sorted({*remembered_hosts(), origin})}, indent=2, mode=0o600)
    except OSError as exc:
        raise LocalStateError(
            f"{path} cannot be written: {exc.strerror}",
            f"set FTPIPE_HOME, or name the host in {TRUSTED_HOSTS_VARIABLE}",
        ) from exc
    return path


def parse_host(text: str) -> str:
    """The origin that a user names: a URL, a host with or without a port for https, or that of a database server.

    Raises:
        ConfigError: It is none of these.
    """
    if _DATABASE_ORIGIN.fullmatch(text):
        return text.lower().removesuffix("/").removesuffix(":5432")
    return origin_of(text if "://" in text else f"https://{text}")


def _origins(names: Iterable[str]) -> set[str]:
    return {parse_host(name) for name in names if name}


def is_plain(origin: str) -> bool:
    """Whether others on the way could read what is sent: HTTP without TLS beyond this machine."""
    return origin.startswith("http://") and not _is_loopback(origin)


def _is_loopback(origin: str) -> bool:
    host = re.sub(r":\d+$", "", origin.partition("://")[2])
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
