"""Who may use the pages: one-time links, API keys, and the sessions that a cookie names."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from ftpipe.server.auth import DEFAULT_OWNER, ApiKeys

MAX_SESSIONS = 200
"""Sessions at the same time; the oldest one ends when another begins."""
MAX_LINKS = 20
"""One-time links that were not used yet."""
SECRET_BYTES = 32
TOKEN_PARAMETER = "token"  # noqa: S105  # a name, no secret
"""Query parameter of a one-time link."""


def _new_secret() -> str:
    return secrets.token_urlsafe(SECRET_BYTES)


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that may use the pages."""

    owner: str
    """Whose things it sees."""
    csrf_token: str = field(default_factory=_new_secret)
    """What every change has to carry: another site can make the browser send the cookie, and cannot read this."""


class Sessions:
    """The sessions of one process: they end with it, so that no cookie outlives the server that made it.

    Args:
        keys: API keys; without any, only one-time links open a session.
    """

    def __init__(self, keys: ApiKeys | None = None) -> None:
        self._keys = keys or ApiKeys()
        self._links: OrderedDict[bytes, None] = OrderedDict()
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    @property
    def has_keys(self) -> bool:
        """Whether a key opens a session, and a link does not."""
        return bool(self._keys.digests)

    def create_link_token(self) -> str:
        """The secret of a link that opens one session."""
        token = _new_secret()
        self._links[_digest(token)] = None
        if len(self._links) > MAX_LINKS:
            self._links.popitem(last=False)
        return token

    def open_with_link(self, token: str) -> str | None:
        """The cookie of a new session; ``None`` if the link was used before or is not one."""
        digest = _digest(token)
        if digest not in self._links:
            return None
        del self._links[digest]
        return self._open(DEFAULT_OWNER)

    def open_with_key(self, key: str) -> str | None:
        """The cookie of a new session; ``None`` if this is no API key."""
        owner = self._keys.owner_or_empty({"authorization": f"Bearer {key}"}) if self.has_keys else ""
        return self._open(owner) if owner else None

    def find(self, cookie: str | None) -> Session | None:
        """The session of a cookie."""
        return self._sessions.get(_digest(cookie)) if cookie else None

    def close(self, cookie: str | None) -> None:
        """End the session of a cookie."""
        if cookie:
            self._sessions.pop(_digest(cookie), None)

    def _open(self, owner: str) -> str:
        cookie = _new_secret()
        self._sessions[_digest(cookie)] = Session(owner)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return cookie


def _digest(secret: str) -> bytes:
    """What is stored and compared: looking a digest up takes no time that depends on the secret."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


def cookie_name(request: Request) -> str:
    """The cookie's name, with the port: cookies do not distinguish ports, and another server may listen on another."""
    server = request.scope.get("server") or ("", 0)
    return f"ftpipe-ui-{server[1]}"


def set_cookie(request: Request, response: Response, cookie: str) -> None:
    """Send a session's cookie, which no script can read and no other site makes the browser send."""
    response.set_cookie(
        cookie_name(request),
        cookie,
        path=request.scope.get("root_path") or "/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
