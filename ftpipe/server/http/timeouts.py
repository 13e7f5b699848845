"""Timeouts for slow clients: whole headers in time, and a body at a minimum speed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import h11
import orjson
from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from ftpipe.server.protocol import ApiError

MIN_BODY_BYTES_PER_SECOND = 4096
"""Minimum average speed of a body, once its first seconds are over."""


async def body_with_deadline(request: Request, seconds: float) -> AsyncIterator[bytes]:
    """The pieces of a body.

    Args:
        request: The request.
        seconds: Maximum wait for a piece; as long may the body as a whole be slower than the minimum speed.

    Raises:
        ApiError: 408 if the client is too slow.
    """
    stream = request.stream()
    waited, received = 0.0, 0
    while True:
        remaining = seconds + received / MIN_BODY_BYTES_PER_SECOND - waited
        started_at = time.monotonic()
        try:
            piece = await asyncio.wait_for(anext(stream), min(seconds, remaining))
        except StopAsyncIteration:
            return
        except TimeoutError as exc:
            message = "The request body came too slowly."
            raise ApiError(408, message, "request_timeout") from exc
        waited += time.monotonic() - started_at
        received += len(piece)
        yield piece


def header_timeout_protocol(header_seconds: float) -> type[H11Protocol]:
    """Uvicorn's HTTP protocol, but a connection without whole headers after ``header_seconds`` is closed.

    Uvicorn itself waits without end: a few hundred connections that send a byte now and then would take all of the
    server's file handles.
    """

    class HeaderTimeoutProtocol(H11Protocol):
        """Starts a timer when a connection is made, and again at the first byte of each further request."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - as in uvicorn
            """Start the timer."""
            super().connection_made(transport)
            self._start_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            """Stop the timer."""
            self._cancel_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            """Stop the timer once the headers are complete."""
            super().data_received(data)
            if self.conn.their_state is h11.IDLE:
                self._start_timer()
            else:
                self._cancel_timer()

        def _start_timer(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(header_seconds, self._on_timeout)

        def _cancel_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _on_timeout(self) -> None:
            self._timer = None
            if not self.transport.is_closing():
                error = ApiError(408, "The request's headers came too slowly.", "request_timeout")
                body = orjson.dumps(error.body)
                head = f"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
                self.transport.write(head.encode() + b"content-type: application/json\r\n\r\n" + body)
                self.transport.close()

    return HeaderTimeoutProtocol
