"""The chats of a gateway: each goes to the provider, with the model's name there."""

from __future__ import annotations

import threading
from collections.abc import Callable

import httpx2

from ftpipe.errors import FtpipeError
from ftpipe.gateway.chat_proxy import ChatProxy, new_client
from ftpipe.gateway.upstream_errors import unusable_route
from ftpipe.providers.provider import Provider
from ftpipe.server.model_resolver import ModelResolver
from ftpipe.server.protocol import model_not_found
from ftpipe.server.routes import ModelRoutes, NoRoutes, Route
from ftpipe.server.storage import Store


class UpstreamRoutes(ModelRoutes):
    """Forwards chats with the owner's tuned models, with their base models, and with the default one.

    Other models are refused: the provider may have any number of them, at any price.

    Args:
        store: The server's database, which knows whose models these are.
        models: Finds what serves a name.
        open_provider: Opens the provider.
        default_model: The base model that every owner can chat with.
        named: Routes that come first.
    """

    def __init__(
        self,
        store: Store,
        models: ModelResolver,
        open_provider: Callable[[], Provider],
        default_model: str,
        *,
        named: ModelRoutes | None = None,
    ) -> None:
        self._store = store
        self._models = models
        self._open_provider = open_provider
        self._default_model = default_model
        self._named = named or NoRoutes()
        self._lock = threading.Lock()
        self._provider: Provider | None = None
        self._client: httpx2.AsyncClient | None = None

    def names(self, owner: str) -> list[str]:
        """The names of the command line's routes; models are listed by themselves."""
        return self._named.names(owner)

    def find(self, owner: str, name: str) -> Route:
        """The route of a name; nothing is answered by this server itself.

        Raises:
            ApiError: 404 for another model; 503 if the provider cannot be used.
        """
        named = self._named.find(owner, name)
        if named is not None and named.upstream is not None:
            return named
        with self._store.read() as tx:
            model = self._models.resolve(tx, owner, name)
            is_allowed = model is not None and (
                name.startswith("ft:") or model.base == self._default_model or tx.jobs.has_base(owner, model.base)
            )
        if model is None or not is_allowed:
            raise model_not_found(name)
        try:
            with self._lock:
                self._provider = self._provider or self._open_provider()
                self._client = self._client or new_client()
                address = self._provider.models.chat_address(model.base)
            return Route(name, address.model, ChatProxy(address, self._client))
        except FtpipeError as exc:
            raise unusable_route(name, exc) from exc

    async def close(self) -> None:
        """Close the connections."""
        await self._named.close()
        if self._client is not None:
            await self._client.aclose()
        if self._provider is not None:
            self._provider.close()
