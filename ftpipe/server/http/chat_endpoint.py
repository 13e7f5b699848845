"""The endpoint of chats and completions: those of a name with a route are forwarded, the engine answers the others."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ftpipe.server.api.stored_completions import add_completion
from ftpipe.server.http.disconnect import ForwardedStream, cancelled_with
from ftpipe.server.http.endpoint import Endpoint, run_queued
from ftpipe.server.http.request_queue import RequestQueue
from ftpipe.server.protocol import DONE_EVENT, ApiRequest, bad_request
from ftpipe.server.routes import ChatUpstream, ModelRoutes, NoRoutes, Route
from ftpipe.server.shadow.streamed_answer import StreamedAnswer

DONE = DONE_EVENT.encode()
FORWARDED_HEADER = "x-ftpipe-forwarded"
"""Marks a chat that a server of ftpipe has forwarded, so that no loop is possible."""
BY_ROUTE = "1"
"""Forwarded to another host, which may let its own inference server answer."""
BY_INFERENCE = "2"
"""Forwarded to an inference server, which is the end of the way."""
MAX_STORED_STREAM_BYTES = 16 * 1024 * 1024
"""A longer streamed answer is not stored: it would be in memory meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatEndpoint:
    """Serves ``POST /chat/completions``, or ``POST /completions``.

    Attributes:
        local: Reads each request, and answers it with the server's engine if it is not forwarded.
        routes: Finds the route of a model's name.
        queue: Limits the chats that are forwarded; their answers are computed elsewhere, so they have no threads.
        is_chat: Whether requests are chats, which can be stored and mirrored.
    """

    local: Endpoint
    routes: ModelRoutes
    queue: RequestQueue
    is_chat: bool = True

    async def handle(self, request: Request) -> Response:
        """Answer a chat."""
        async with self.local.receive(request) as parsed:
            route = await self._find(parsed)
            if route is None or (not self.is_chat and route.completions is None):
                return await self.local.respond(request, parsed)
            upstream = route.upstream if self.is_chat else route.completions
            if upstream is None:
                body = {**parsed.body, "model": route.model}
                return await self.local.respond(request, replace(parsed, body=body, alias=route.name))
            forwarded_by = request.headers.get(FORWARDED_HEADER)
            if forwarded_by == BY_INFERENCE or (forwarded_by is not None and not route.is_own):
                message = f"The chat with '{route.name}' was forwarded by another server, and is not forwarded again."
                raise bad_request(message, "model", "forwarding_loop")
            return await self._forward(request, parsed, route, upstream)

    async def _find(self, parsed: ApiRequest) -> Route | None:
        name = parsed.body.get("model")
        if isinstance(self.routes, NoRoutes) or not isinstance(name, str):
            return None
        return await anyio.to_thread.run_sync(self.routes.find, parsed.owner, name)

    async def _forward(self, request: Request, parsed: ApiRequest, route: Route, upstream: ChatUpstream) -> Response:
        """Send the chat as it came, except for the model's name, and its answer in the same way."""
        body = {**parsed.body, "model": route.model}
        is_streamed = body.get("stream") or False
        if not isinstance(is_streamed, bool):
            message = "Invalid 'stream': expected a boolean."
            raise bad_request(message, "stream", "invalid_type")

        async def compute() -> Response:
            with cancelled_with(parsed.cancel_token):
                started = time.perf_counter()
                if is_streamed:
                    events = await upstream.stream(body, route.name)
                    return ForwardedStream(self._recorded(parsed, route, events, started), parsed.cancel_token)
                answer = await upstream.complete(body, route.name)
                await self._record(parsed, route, answer, started)
                return JSONResponse(answer)

        return await run_queued(self.queue, request, parsed, prepare=_nothing, compute=compute)

    def _recorded(
        self, parsed: ApiRequest, route: Route, events: AsyncIterator[bytes], started: float
    ) -> AsyncIterator[bytes]:
        """The same events; the whole answer is stored if the request says so, and offered for a comparison."""
        is_stored = _is_stored(parsed, route)
        if not self.is_chat or (self.local.context.shadow is None and not is_stored):
            return events

        async def pass_on() -> AsyncIterator[bytes]:
            answer = StreamedAnswer(MAX_STORED_STREAM_BYTES) if is_stored else StreamedAnswer()
            try:
                async for event in events:
                    answer.add(event)
                    if event == DONE and (completion := answer.completion()) is not None:
                        await self._record(parsed, route, completion, started)  # the client may disconnect after it
                    yield event
            finally:
                close = getattr(events, "aclose", None)
                if close is not None:
                    await close()

        return pass_on()

    async def _record(self, parsed: ApiRequest, route: Route, answer: Mapping[str, Any], started: float) -> None:
        seconds = time.perf_counter() - started
        if not self.is_chat:
            return
        if _is_stored(parsed, route):
            await anyio.to_thread.run_sync(self._store, parsed, answer)
        shadow = self.local.context.shadow
        if shadow is not None:
            await anyio.to_thread.run_sync(shadow.offer, parsed, answer, seconds)

    def _store(self, parsed: ApiRequest, answer: Mapping[str, Any]) -> None:
        with self.local.context.store.write() as tx:
            add_completion(tx, parsed, answer, parsed.body.get("metadata") or {})


def _is_stored(parsed: ApiRequest, route: Route) -> bool:
    """Whether this server stores the answer; another host stores what it answers by itself."""
    return route.is_own and parsed.body.get("store") is True


async def _nothing() -> None:
    """A model at another host is loaded there."""
