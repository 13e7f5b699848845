"""Timeouts for slow clients: whole headers in time, and a body at a minimum speed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, ClassVar

import h11
import orjson
from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from ftpipe.server.protocol import ApiError

MIN_BODY_BYTES_PER_SECOND = 4096
"""Minimum average speed of a body, once its first seconds are over."""


MAX_PIPELINED_BYTES = 64 * 1024
"""What a client may send while its request is answered."""


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


class HeaderTimeoutProtocol(H11Protocol):
    """Uvicorn's HTTP protocol, with a limit for a client that sends its headers or reads its response too slowly.

    Uvicorn itself waits without end: a few hundred connections that send a byte now and then would take all of the
    server's file handles. The timer for headers starts when a connection is made, and again at the first byte of each
    further request.
    """

    header_seconds: ClassVar[float]
    write_seconds: ClassVar[float]
    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - as in uvicorn
        """Start the timer."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._cancel_timer()
        self._cancel_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start a timer: a client that stops reading would hold its response, and what computes it, without end."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop that timer."""
        self._cancel_write_timer()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Stop the timer once the headers are complete."""
        super().data_received(data)
        self._watch_pipelined()
        if self.conn.their_state is h11.IDLE:
            self._start_timer()
        else:
            self._cancel_timer()

    def _watch_pipelined(self) -> None:
        """Go on reading after a further request, where uvicorn stops and so misses that the client disconnects."""
        if self.conn.their_state is not h11.DONE:
            return
        if len(self.conn.trailing_data[0]) > MAX_PIPELINED_BYTES:
            self.transport.abort()
        else:
            self.flow.resume_reading()

    def _cancel_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.header_seconds, self._on_timeout)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP with an error in OpenAI's format instead of plain text."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._send_error(ApiError(400, msg, "invalid_http"))
        else:
            self.transport.close()

    def _on_timeout(self) -> None:
        self._timer = None
        self._send_error(ApiError(408, "The request's headers came too slowly.", "request_timeout"))

    def _send_error(self, error: ApiError) -> None:
        """Send an error past the application, and close the connection."""
        if self.transport.is_closing():
            return
        body = orjson.dumps(error.body)
        status = f"{error.status} {HTTPStatus(error.status).phrase}"
        head = f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"content-type: application/json\r\n\r\n" + body)
        self.transport.close()


def header_timeout_protocol(header_seconds: float, write_seconds: float) -> type[H11Protocol]:
    """The protocol with its limits.

    Args:
        header_seconds: Maximum wait for the whole headers of a request.
        write_seconds: Maximum wait for a client that does not read its response.
    """
    limits = {"header_seconds": header_seconds, "write_seconds": write_seconds}
    return type("LimitedHeaderTimeoutProtocol", (HeaderTimeoutProtocol,), limits)
