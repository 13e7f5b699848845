"""Names that the server answers under with a model of another name, here or at another host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ftpipe.server.protocol import ApiRequest, bad_request


class ChatUpstream(Protocol):
    """Another host that answers chats, with a key that comes from the server's environment."""

    async def complete(self, body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        """The whole answer to a chat; ``name`` stands in it as the model's name.

        Raises:
            ApiError: The host refused the chat, or did not answer as it should.
        """

    async def stream(self, body: Mapping[str, Any], name: str) -> AsyncIterator[bytes]:
        """The answer as server-sent events; the host has accepted the chat when this returns.

        Raises:
            ApiError: As for ``complete``.
        """


@dataclass(frozen=True, slots=True)
class Route:
    """Where the chats of a name go."""

    name: str
    """The name that clients send."""
    model: str
    """The model's name where it is served."""
    upstream: ChatUpstream | None = None
    """The host that serves it; ``None`` if this server does."""
    completions: ChatUpstream | None = None
    """What answers ``/completions`` there, in the same way; ``None`` if that host gets chats only."""
    is_own: bool = False
    """True if that host only computes for this server: nobody else is paid, and what is stored is stored here."""


class ModelRoutes(Protocol):
    """Finds routes; only the owner of the server sets them."""

    def start(self) -> None:
        """Begin to work; called in the event loop of the server."""
        return

    def find(self, owner: str, name: str) -> Route | None:
        """The route of a name now, or ``None``; called in a thread, for each chat.

        Raises:
            ApiError: There is a route, and it cannot be used at the moment.
        """

    def names(self, owner: str) -> list[str]:
        """The names that have a route."""

    def health(self) -> Mapping[str, Any]:
        """What ``/health`` says of other hosts, besides the state of this server."""
        return {}

    async def close(self) -> None:
        """Close the connections to other hosts."""


class NoRoutes(ModelRoutes):
    """The routes of a server that has none."""

    def find(self, owner: str, name: str) -> Route | None:
        """Nothing."""

    def names(self, owner: str) -> list[str]:  # noqa: ARG002  # as in the protocol
        """No name."""
        return []

    async def close(self) -> None:
        """Nothing is open."""


def follow_route(routes: ModelRoutes, request: ApiRequest) -> ApiRequest:
    """A request for the model of this server that a route leads to; called in a thread.

    Raises:
        ApiError: The route leads to another host, and such requests are not forwarded.
    """
    name = request.body.get("model")
    route = routes.find(request.owner, name) if isinstance(name, str) and not request.alias else None
    if route is None:
        return request
    if route.upstream is not None:
        message = f"'{route.name}' is served by another host, which gets chats only: use /chat/completions."
        raise bad_request(message, "model", "unsupported_model")
    return replace(request, body={**request.body, "model": route.model}, alias=route.name)
