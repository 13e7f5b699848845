"""ASGI middleware for every request: Host and Origin check, turns of owners, request id, access log."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ftpipe.server.auth import ApiKeys, HostPolicy
from ftpipe.server.metrics import ServerMetrics
from ftpipe.server.protocol import ApiError

access_log = logging.getLogger("ftpipe.server.access")

ROUTE_SCOPE_KEY = "ftpipe.route"
"""Key of the scope under which a route stores its path, for the access log."""


class OwnerTurns:
    """Begins one request of each owner in an iteration of the event loop.

    If many clients of one owner connect at the same moment, those of others do not wait until all of them have been
    read and answered: with 100 connections at once, these waited 0.2 to 0.5 s (two CPU cores, 2026-11-29).
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def wait(self, owner: str) -> None:
        """Wait for the turn of a request."""
        loop = asyncio.get_running_loop()
        if owner not in self._waiting:
            self._waiting[owner] = deque()
            loop.call_soon(self._next, owner)
            return
        future: asyncio.Future[None] = loop.create_future()
        self._waiting[owner].append(future)
        await future

    def _next(self, owner: str) -> None:
        futures = self._waiting[owner]
        while futures:
            future = futures.popleft()
            if not future.done():  # its request was not cancelled
                future.set_result(None)
                asyncio.get_running_loop().call_soon(self._next, owner)
                return
        del self._waiting[owner]


class RequestGuardMiddleware:
    """Refuses requests from web pages, of unclear length and with compressed bodies, and logs every request.

    The others begin in turn for each owner.

    Args:
        app: The application behind it.
        host_policy: Which Host and Origin headers are allowed.
        api_keys: Say whose turn a request takes.
        metrics: Counts the requests.
    """

    def __init__(self, app: ASGIApp, host_policy: HostPolicy, api_keys: ApiKeys, metrics: ServerMetrics) -> None:
        self._app = app
        self._api_keys = api_keys
        self._turns = OwnerTurns()
        self._metrics = metrics
        self._host_policy = host_policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        entry = _AccessLogEntry(scope, send, self._metrics)
        headers = Headers(scope=scope)
        has_two_lengths = "content-length" in headers and "transfer-encoding" in headers
        try:
            self._host_policy.check(headers)
            if has_two_lengths:
                # A proxy in front that reads the other header would see other requests in the same bytes.
                # Source: RFC 9112, section 6.3.
                message = "A request cannot have both Content-Length and Transfer-Encoding."
                raise ApiError(400, message, "invalid_framing")
            if headers.get("content-encoding", "identity") != "identity":
                # A small compressed body could become a huge one.
                message = "Compressed request bodies are not supported."
                raise ApiError(415, message, "unsupported_content_encoding")
        except ApiError as exc:
            # The connection ends with it: where the next request begins is not certain.
            close = {"connection": "close"} if has_two_lengths else None
            await JSONResponse(exc.body, exc.status, close)(scope, receive, entry.send)
        else:
            await self._turns.wait(self._api_keys.owner_or_empty(headers))
            await self._app(scope, receive, entry.send)
        finally:
            entry.log()


class _AccessLogEntry:
    """What the access log says about one request."""

    def __init__(self, scope: Scope, send: Send, metrics: ServerMetrics) -> None:
        self._scope = scope
        self._send = send
        self._metrics = metrics
        self._request_id = f"req_{secrets.token_hex(16)}"
        self._started_at = time.perf_counter()
        self._status = 0

    async def send(self, message: Message) -> None:
        """Send a message, with the headers that every response has."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._request_id
            headers["x-content-type-options"] = "nosniff"
            headers["cache-control"] = "no-store"
        await self._send(message)

    def log(self) -> None:
        """Write one line: the route with the names of its parameters, so that no content of the request is stored."""
        milliseconds = (time.perf_counter() - self._started_at) * 1000
        route = self._scope.get(ROUTE_SCOPE_KEY)
        access_log.info(
            "%s %s %d %.0fms %s", self._scope["method"], route or "-", self._status, milliseconds, self._request_id
        )
        self._metrics.count_request(self._scope["method"], route, self._status, milliseconds / 1000)
