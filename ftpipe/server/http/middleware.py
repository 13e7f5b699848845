"""What every request passes first: the Host and Origin check, a request id, the access log."""

from __future__ import annotations

import logging
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ftpipe.server.auth import HostPolicy
from ftpipe.server.protocol import ApiError

access = logging.getLogger("ftpipe.server.access")

ROUTE_SCOPE_KEY = "ftpipe.route"
"""Key in the scope under which an exchange notes its route."""


class RequestGuardMiddleware:
    """ASGI middleware.

    Args:
        app: The application behind it.
        gate: Which Host and Origin headers are believed.
    """

    def __init__(self, app: ASGIApp, gate: HostPolicy) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = _AccessLogEntry(scope, send)
        try:
            self._gate.check(Headers(scope=scope))
            if scope["headers"] and Headers(scope=scope).get("content-encoding", "identity") != "identity":
                # A small compressed body could be an endless one.
                message = "Compressed request bodies are not taken."
                raise ApiError(415, message, "unsupported_content_encoding")
        except ApiError as exc:
            await JSONResponse(exc.body, exc.status)(scope, receive, visit.send)
        else:
            await self._app(scope, receive, visit.send)
        finally:
            visit.log()


class _AccessLogEntry:
    """One request on its way through."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._id = f"req_{secrets.token_hex(16)}"
        self._began = time.perf_counter()
        self._status = 0

    async def send(self, message: Message) -> None:
        """Pass a message on; headers get what every answer has."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._id
            headers["x-content-type-options"] = "nosniff"
            headers["cache-control"] = "no-store"
        await self._send(message)

    def log(self) -> None:
        """One line: the route with its parameters' names only, so that nothing of the request is kept."""
        milliseconds = (time.perf_counter() - self._began) * 1000
        route = self._scope.get(ROUTE_SCOPE_KEY, "-")
        access.info("%s %s %d %.0fms %s", self._scope["method"], route, self._status, milliseconds, self._id)
