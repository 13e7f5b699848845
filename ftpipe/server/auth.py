"""Authentication: API keys and their owners, and the check of Host and Origin headers."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ftpipe.errors import ConfigError, UsageError
from ftpipe.server.protocol import ApiError

log = logging.getLogger("ftpipe.server")

DEFAULT_OWNER = "local"
MIN_KEY_CHARACTERS = 16
ANY_ORIGIN = "*"
KEY_HINT = "`ftpipe serve key`, on the machine of the server, prints its key if it was started without a key file."
_ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_OWNER_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """Digests of the keys with their owners; without keys every client is ``local``."""

    digests: tuple[tuple[bytes, str], ...] = ()

    def owner(self, headers: Mapping[str, str]) -> str:
        """The owner of the key in the header ``Authorization`` or, as Azure's SDKs send it, ``api-key``.

        Raises:
            ApiError: 401 if a key is needed and none, or a wrong one, was sent.
        """
        if not self.digests:
            return DEFAULT_OWNER
        token = _token(headers)
        if not token:
            message = (
                f"You didn't provide an API key. Send it as 'Authorization: Bearer KEY' or 'api-key: KEY'. {KEY_HINT}"
            )
            raise ApiError(401, message, "invalid_api_key")
        digest = _digest(token)
        # Every key is compared, each in constant time, so that the response time reveals nothing.
        owners = [owner for known, owner in self.digests if hmac.compare_digest(known, digest)]
        if not owners:
            message = f"Incorrect API key provided. {KEY_HINT}"
            raise ApiError(401, message, "invalid_api_key")
        return owners[0]

    def owner_or_empty(self, headers: Mapping[str, str]) -> str:
        """The owner of the key in the headers; empty if a key is needed and this is not one."""
        try:
            return self.owner(headers)
        except ApiError:
            return ""


def _token(headers: Mapping[str, str]) -> str:
    """The key that a client sent, or an empty text; ``api-key`` counts only without ``Authorization``."""
    authorization = headers.get("authorization")
    if authorization is None:
        return headers.get("api-key", "").strip()
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def load_api_keys(path: Path | None) -> ApiKeys:
    """Read a key file.

    Raises:
        ConfigError: If it cannot be read, is empty, can be written by other users, has an invalid owner name or a key
            that is too short.
    """
    if path is None:
        return ApiKeys()
    try:
        mode = path.stat().st_mode
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        message = f"the key file {path} cannot be read: {exc}"
        raise ConfigError(message, "give a readable text file with one key per line") from exc
    entries = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not entries:
        message = f"the key file {path} contains no key"
        raise ConfigError(message, "write one key per line, as KEY or OWNER:KEY")
    if mode & 0o022:
        message = f"other users of this machine can write the key file {path}, and so add a key"
        raise ConfigError(message, f"run `chmod 600 {path}`, and check the keys in it")
    return ApiKeys(tuple(_parse_line(line, path) for line in entries))


def warn_if_readable(path: Path | None) -> None:
    """Log a warning if other users of this machine can read the key file."""
    if path is not None and path.stat().st_mode & 0o044:
        log.warning("other users of this machine can read the key file %s: run `chmod 600 %s`", path, path)


def _parse_line(line: str, path: Path) -> tuple[bytes, str]:
    owner, colon, key = line.rpartition(":")
    owner = owner.strip() if colon else DEFAULT_OWNER
    if not _OWNER_NAME.fullmatch(owner) or not key.strip():
        message = f"the key file {path} has a line that is not KEY or OWNER:KEY"
        raise ConfigError(message, "an owner name has letters, digits, dots, dashes and underscores")
    if len(key.strip()) < MIN_KEY_CHARACTERS:
        message = f"the key file {path} has a key of {owner} with less than {MIN_KEY_CHARACTERS} characters"
        raise ConfigError(message, "make a new one, for example with `openssl rand -hex 24`")
    return _digest(key.strip()), owner


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def is_loopback(host: str) -> bool:
    """True for ``localhost`` and loopback addresses."""
    if host.lower() == "localhost":
        return True
    address = _parse_address(host)
    return address is not None and address.is_loopback


def require_keys_if_exposed(host: str, origins: Iterable[str], keys: ApiKeys) -> None:
    """Refuse to listen beyond this machine, or to serve every web page, without keys.

    Raises:
        UsageError: If there are no keys, and ``host`` is not loopback or any origin is allowed.
    """
    if not keys.digests and ANY_ORIGIN in (origin.strip() for origin in origins):
        message = "refusing to allow every origin without API keys: any web page that you open could use the server"
        raise UsageError(message, "name the origins with --allow-origin, or use a key")
    if not keys.digests and not is_loopback(host):
        message = f"refusing to listen on {host} without API keys: anyone on the network could connect"
        raise UsageError(message, "add --api-key-file FILE, or listen on 127.0.0.1")


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """Which Host and Origin headers are allowed, against DNS rebinding and requests from web pages."""

    names: frozenset[str]
    allows_any_address: bool
    """Allow any IP address as Host: a rebinding attack needs a name."""
    origins: frozenset[str] = frozenset()
    """Origins whose web pages may use the server; one of them can be ``ANY_ORIGIN``."""

    def check(self, headers: Mapping[str, str]) -> None:
        """Refuse a request that a web page may have sent.

        Raises:
            ApiError: 403.
        """
        host = headers.get("host", "")
        if not self._is_allowed(_name_of(host)):
            message = "This Host is not allowed. Start the server with --allowed-host NAME to allow it."
            raise ApiError(403, message, "host_not_allowed")
        origin = headers.get("origin")
        if origin is not None and not self.origins.isdisjoint({origin.lower(), ANY_ORIGIN}):
            return
        if origin is not None and _netloc(origin) != host.lower():
            message = "Requests from web pages of another origin are refused."
            raise ApiError(403, message, "origin_not_allowed")
        if headers.get("sec-fetch-site", "none") in ("cross-site", "same-site"):
            message = "Requests from web pages of another site are refused."
            raise ApiError(403, message, "origin_not_allowed")

    def _is_allowed(self, name: str) -> bool:
        if name in self.names:
            return True
        address = _parse_address(name)
        return address is not None and (address.is_loopback or self.allows_any_address)


def build_host_policy(host: str, allowed: Iterable[str], origins: Iterable[str] = ()) -> HostPolicy:
    """The policy of a server that listens on ``host``.

    Raises:
        UsageError: An origin is not one.
    """
    names = {"localhost", host.lower(), *(_name_of(name.strip()) for name in allowed)}
    is_public = not is_loopback(host)
    if is_public:
        names.add(socket.gethostname().lower())
    return HostPolicy(frozenset(names), is_public, frozenset(_normalize_origin(origin) for origin in origins))


def _normalize_origin(text: str) -> str:
    """An origin as browsers send it: lower case, without a slash at the end or the scheme's own port.

    Raises:
        UsageError: It is not an origin.
    """
    origin = text.strip().lower().removesuffix("/")
    if origin == ANY_ORIGIN:
        return origin
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        message = f"{text!r} is not an origin"
        raise UsageError(message, "an origin is a scheme and a host, for example https://chat.example.com")
    default_port = _DEFAULT_PORTS.get(match["scheme"])
    return origin.removesuffix(f":{default_port}") if default_port else origin


def _netloc(origin: str) -> str:
    """Host and port of an origin; empty if it has none, like the origin ``null``."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name_of(netloc: str) -> str:
    """The host of ``host:port`` or ``[v6]:port``, in lower case."""
    if netloc.startswith("["):
        return netloc[1:].partition("]")[0].lower()
    host, colon, port = netloc.rpartition(":")
    return (host if colon and port.isdigit() else netloc).lower()


def _parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
