"""Routes of the command line and aliases of the registry, read for each chat, so that a moved alias counts at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import httpx2

from ftpipe.errors import ConfigError, FtpipeError, UsageError
from ftpipe.gateway.chat_proxy import ChatProxy, new_client
from ftpipe.gateway.upstream_errors import unusable_route
from ftpipe.providers.provider import Provider
from ftpipe.records.run import Model
from ftpipe.registry import Registry
from ftpipe.server.routes import ModelRoutes, Route
from ftpipe.suggestions import nearest_name


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model and the provider that serves it."""

    provider: str
    model: str
    """Its name there."""
    endpoint: str = ""
    """Fingerprint of the endpoint that it was registered at; empty if it is not in the registry."""


class RegistryRoutes(ModelRoutes):
    """Finds the model behind a name.

    Args:
        registry: Where aliases and models are looked up.
        names: The name that clients send → an alias or model of the registry, or ``PROVIDER:MODEL``.
        with_aliases: Whether every alias of the registry is such a name.
        providers: Names of all known providers.
        open_provider: Opens one, with its key; called at its first use.
        own_endpoint: Fingerprint under which the registry has the models of this server itself.
    """

    def __init__(
        self,
        registry: Registry,
        names: Mapping[str, str],
        *,
        with_aliases: bool,
        providers: Iterable[str],
        open_provider: Callable[[str], Provider],
        own_endpoint: str,
    ) -> None:
        self._registry = registry
        self._names = dict(names)
        self._with_aliases = with_aliases
        self._provider_names = frozenset(providers)
        self._open_provider = open_provider
        self._own_endpoint = own_endpoint
        self._lock = threading.Lock()
        self._providers: dict[str, Provider] = {}
        self._registered: dict[str, ServedModel] = {}
        self._client: httpx2.AsyncClient | None = None

    def names(self, owner: str) -> list[str]:  # noqa: ARG002  # every owner of a key can use every route
        """The names of all routes."""
        aliases = self._registry.models.aliases() if self._with_aliases else {}
        return list(dict.fromkeys((*self._names, *aliases)))

    def find(self, owner: str, name: str) -> Route | None:  # noqa: ARG002
        """The route of a name, as the registry has it now.

        Raises:
            ApiError: 503 if its model is not registered any more, or its provider cannot be used.
        """
        try:
            served = self.served(name)
            return None if served is None else self._route(name, served)
        except FtpipeError as exc:
            raise unusable_route(name, exc) from exc

    def served(self, name: str) -> ServedModel | None:
        """The model behind a name; ``None`` if the name has no route.

        Raises:
            UsageError: The registry does not know the model of its route.
        """
        target = self._names.get(name)
        if target is None:
            return self._behind_alias(name) if self._with_aliases else None
        served = self._behind_alias(target)
        if served is not None:
            return served
        provider, colon, model = target.partition(":")
        if colon and provider in self._provider_names:
            return ServedModel(provider, model)
        with self._lock:
            if target not in self._registered:  # its name does not change, and a search reads all models
                found = self._registered_model(target)
                self._registered[target] = ServedModel(found.provider, found.id, found.endpoint)
            return self._registered[target]

    def is_own(self, served: ServedModel) -> bool:
        """Whether this server serves a model itself."""
        return served.provider == "local" and served.endpoint in ("", self._own_endpoint)

    def provider_of(self, served: ServedModel) -> Provider:
        """The provider of a model at another host.

        Raises:
            ConfigError: The provider is now at another endpoint than the one that the model was registered at.
            FtpipeError: It cannot be opened: no key, or an address that was not confirmed.
        """
        with self._lock:
            if served.provider not in self._providers:
                self._providers[served.provider] = self._open_provider(served.provider)
            provider = self._providers[served.provider]
        if served.endpoint and served.endpoint != provider.endpoint:
            raise ConfigError(
                f"{served.model} was registered at {served.endpoint}, and {served.provider} is now {provider.endpoint}",
                f"set {provider.profile.base_url_env or 'base_url'} to the endpoint of the model",
            )
        return provider

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    def _registered_model(self, target: str) -> Model:
        try:
            return self._registry.models.get(target)
        except UsageError as exc:
            provider, colon, model = target.partition(":")
            nearest = nearest_name(provider, self._provider_names) if colon else ""
            if not nearest:
                raise
            raise UsageError(
                f"there is no provider {provider!r}, and no model {target!r} in the registry",
                f"did you mean {nearest}:{model}?",
            ) from exc

    def _behind_alias(self, alias: str) -> ServedModel | None:
        model = self._registry.models.behind_alias(alias)
        return None if model is None else ServedModel(model.provider, model.id, model.endpoint)

    def _route(self, name: str, served: ServedModel) -> Route:
        if self.is_own(served):
            return Route(name, served.model)
        address = self.provider_of(served).models.chat_address(served.model)
        with self._lock:
            self._client = self._client or new_client()
        return Route(name, address.model, ChatProxy(address, self._client))


def parse_routes(values: Iterable[str]) -> dict[str, str]:
    """Routes from values ``OLD=NEW``.

    Raises:
        UsageError: A value has another form, or names an old name twice.
    """
    routes: dict[str, str] = {}
    for value in values:
        name, equals, target = (part.strip() for part in value.partition("="))
        if not equals or not name or not target:
            raise UsageError(
                f"--route {value} is not OLD=NEW",
                "write --route 'OLD=NEW' with the name that clients send and an alias, a model or PROVIDER:MODEL",
            )
        if name in routes:
            raise UsageError(f"--route names {name} twice", "leave one of them out")
        routes[name] = target
    return routes
