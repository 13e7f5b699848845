"""Requests that the inference server answers: with the adapter loaded, and again if the adapter was forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import anyio.to_thread
import httpx2

from ftpipe.errors import ConnectionFailedError, FtpipeError
from ftpipe.gateway.chat_proxy import ChatProxy
from ftpipe.gateway.inference.adapters import Adapter
from ftpipe.gateway.inference.fields import ForwardedApi, ForwardedBody
from ftpipe.gateway.inference.server import InferenceServer
from ftpipe.gateway.inference.tool_forms import ToolForms
from ftpipe.gateway.upstream_errors import ModelMissingError, NotConnectedError, UpstreamMessages, unusable_route
from ftpipe.providers.client import ChatAddress
from ftpipe.server.api.chat_tools import ChatTools
from ftpipe.server.clock import now
from ftpipe.server.http.chat_endpoint import BY_INFERENCE
from ftpipe.server.protocol import ApiError, new_id

Answer = TypeVar("Answer")

RECONNECT_SECONDS = 0.5
"""Wait before the second attempt to connect."""
PUBLIC_FIELDS = ("object", "choices", "usage", "service_tier")
"""Fields of an answer that reach the client; id, time and model are this server's."""


@dataclass(frozen=True, slots=True)
class InferenceMessages(UpstreamMessages):
    """Errors of vLLM and SGLang in OpenAI's words.

    Source: ``vllm/entrypoints/openai/`` and ``srt/lora/lora_registry.py``, read 2026-11-29: vLLM answers 404 for an
    adapter that is not loaded, and SGLang 400 (``adapters are not loaded``); the code of both is the status.
    """

    def error_of(self, status: int, body: Mapping[str, Any] | None, retry_after: str = "") -> ApiError:
        """The error for a refusal."""
        error = UpstreamMessages.error_of(self, status, body, retry_after)
        fields = error.body["error"]
        message = str(fields["message"])
        if status == 400 and "adapters are not loaded" in message:
            return self.model_missing()
        if fields["code"] == str(status):
            fields["code"] = "context_length_exceeded" if "maximum context length" in message else "invalid_value"
        return error


class InferenceProxy(ChatProxy):
    """Forwards one request, and leaves out of the answer what only the inference server knows.

    Args:
        address: Where the request goes.
        client: Makes it.
        secrets: What messages leave out.
        prefix: Of the answer's id.
        tools: What the answer can call.
    """

    forwarded_by: ClassVar[str] = BY_INFERENCE

    def __init__(
        self,
        address: ChatAddress,
        client: httpx2.AsyncClient,
        *,
        secrets: tuple[str, ...],
        prefix: str,
        tools: ChatTools,
    ) -> None:
        super().__init__(address, client)
        self._forms = ToolForms(tools)
        self._model = address.model
        self._secrets = secrets
        self._head = {"id": new_id(prefix), "created": now()}

    def public(self, answer: Mapping[str, Any], name: str) -> dict[str, Any]:
        """An answer, or a piece of a streamed one, as the client gets it."""
        answer = self._forms.apply(answer)
        return {**self._head, "model": name, **{field: answer[field] for field in PUBLIC_FIELDS if field in answer}}

    def messages(self, name: str) -> UpstreamMessages:
        """What errors of the inference server say to the client."""
        return InferenceMessages(name=name, model=self._model, secrets=self._secrets)


class InferenceApi:
    """Answers requests for one model.

    Args:
        server: The inference server.
        api: Which requests.
        base: The base model's name here.
        adapter: The adapter; ``None`` for the base model.
    """

    def __init__(self, server: InferenceServer, api: ForwardedApi, base: str, adapter: Adapter | None) -> None:
        self._server = server
        self._api = api
        self._base = base
        self._adapter = adapter

    async def complete(self, body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        """The whole answer to a request, with ``name`` as the model's name.

        Raises:
            ApiError: The request was refused, or there is no answer.
        """
        forwarded = await anyio.to_thread.run_sync(self._api.read, body)
        async with self._server.adapters.in_use(self._adapter):
            return await self._repeated(
                name,
                lambda model: self._proxy(model, forwarded).complete({**forwarded.fields, "model": model}, name),
            )

    async def stream(self, body: Mapping[str, Any], name: str) -> AsyncIterator[bytes]:
        """The answer as server-sent events; the request was accepted when this returns.

        Raises:
            ApiError: As for ``complete``.
        """
        forwarded = await anyio.to_thread.run_sync(self._api.read, body)
        events = self._events(forwarded, name)
        await anext(events)  # a refusal is raised here
        return events

    async def _events(self, forwarded: ForwardedBody, name: str) -> AsyncIterator[bytes]:
        """First an empty piece, when the request was accepted; the adapter stays loaded until the last event."""
        async with self._server.adapters.in_use(self._adapter):
            events = await self._repeated(
                name, lambda model: self._proxy(model, forwarded).stream({**forwarded.fields, "model": model}, name)
            )
            try:
                yield b""
                async for event in events:
                    yield event
            finally:
                close = getattr(events, "aclose", None)
                if close is not None:
                    await close()

    async def _repeated(self, name: str, send: Callable[[str], Awaitable[Answer]]) -> Answer:
        """Load what the request needs and send it; again, once, if the inference server has certainly computed nothing.

        That is: if the adapter was forgotten, as after a restart, and if no connection was made.
        """
        has_reloaded = has_reconnected = False
        while True:
            try:
                return await send(await self._server.ready(self._base, self._adapter))
            except ModelMissingError:
                if has_reloaded or self._adapter is None:
                    raise
                has_reloaded = True
                self._server.adapters.forget([self._adapter.name])
            except (NotConnectedError, ConnectionFailedError) as exc:
                if has_reconnected:
                    raise exc if isinstance(exc, ApiError) else unusable_route(name, exc) from exc
                has_reconnected = True
                await asyncio.sleep(RECONNECT_SECONDS)
            except ApiError:
                raise
            except FtpipeError as exc:
                raise unusable_route(name, exc) from exc

    def _proxy(self, model: str, forwarded: ForwardedBody) -> InferenceProxy:
        client = self._server.client
        hidden = [self._server.base_name(self._base)]
        if self._adapter is not None:
            hidden.append(self._adapter.name)
        secrets = (*client.secrets, *(text for text in hidden if text != self._base))
        address = client.address(self._api.path, model)
        return InferenceProxy(address, client.http, secrets=secrets, prefix=self._api.prefix, tools=forwarded.tools)
