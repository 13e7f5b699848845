"""The endpoint of chats: it forwards those of a name with a route, and answers all others with the server's engine."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ftpipe.server.http.disconnect import ForwardedStream, cancelled_with
from ftpipe.server.http.endpoint import Endpoint, run_queued
from ftpipe.server.http.request_queue import RequestQueue
from ftpipe.server.protocol import ApiRequest, bad_request
from ftpipe.server.routes import ChatUpstream, ModelRoutes, NoRoutes, Route
from ftpipe.server.shadow.streamed_answer import StreamedAnswer

DONE = b"data: [DONE]\n\n"
"""The last event of a streamed answer."""
FORWARDED_HEADER = "x-ftpipe-forwarded"
"""Marks a chat that a server of ftpipe has forwarded; it is not forwarded again, so that no loop is possible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatEndpoint:
    """Serves ``POST /chat/completions``.

    Attributes:
        local: Reads each request, and answers it with the server's engine if it is not forwarded.
        routes: Finds the route of a model's name.
        queue: Limits the chats that are forwarded; their answers are computed elsewhere, so they have no threads.
    """

    local: Endpoint
    routes: ModelRoutes
    queue: RequestQueue

    async def handle(self, request: Request) -> Response:
        """Answer a chat."""
        async with self.local.receive(request) as parsed:
            route = await self._find(parsed)
            if route is None:
                return await self.local.respond(request, parsed)
            if route.upstream is None:
                body = {**parsed.body, "model": route.model}
                return await self.local.respond(request, replace(parsed, body=body, alias=route.name))
            if FORWARDED_HEADER in request.headers:
                message = f"The chat with '{route.name}' was forwarded by another server, and is not forwarded again."
                raise bad_request(message, "model", "forwarding_loop")
            return await self._forward(request, parsed, route, route.upstream)

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
                    return ForwardedStream(self._mirrored(parsed, events, started), parsed.cancel_token)
                answer = await upstream.complete(body, route.name)
                await self._mirror(parsed, answer, started)
                return JSONResponse(answer)

        return await run_queued(self.queue, request, parsed, prepare=_nothing, compute=compute)

    def _mirrored(self, parsed: ApiRequest, events: AsyncIterator[bytes], started: float) -> AsyncIterator[bytes]:
        """The same events; the whole answer is offered for a comparison of two models."""
        if self.local.context.shadow is None:
            return events

        async def pass_on() -> AsyncIterator[bytes]:
            answer = StreamedAnswer()
            try:
                async for event in events:
                    answer.add(event)
                    if event == DONE and (completion := answer.completion()) is not None:
                        await self._mirror(parsed, completion, started)  # the client may disconnect after it
                    yield event
            finally:
                close = getattr(events, "aclose", None)
                if close is not None:
                    await close()

        return pass_on()

    async def _mirror(self, parsed: ApiRequest, answer: Mapping[str, Any], started: float) -> None:
        shadow = self.local.context.shadow
        if shadow is not None:
            await anyio.to_thread.run_sync(shadow.offer, parsed, answer, time.perf_counter() - started)


async def _nothing() -> None:
    """A model at another host is loaded there."""
