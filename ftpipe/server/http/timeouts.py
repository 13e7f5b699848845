"""Waiting for clients, but not for ever: a connection must bring whole headers in time, and a body at some speed."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

from ftpipe.server.protocol import ApiError

MIN_BODY_BYTES_PER_SECOND = 4096
"""Bytes per second that a body must come with on the average, once its first grace is over."""


def body_deadline(grace: float, received: int) -> float:
    """Seconds that a body may have taken when ``received`` bytes have come."""
    return grace + received / MIN_BODY_BYTES_PER_SECOND


def header_timeout_protocol(header_seconds: float) -> type[H11Protocol]:
    """HTTP for uvicorn, which closes a connection whose headers are not there after ``header_seconds``.

    Uvicorn itself waits without end: a few hundred connections that send a byte now and then would take all of the
    server's file handles.
    """

    class HeaderTimeoutProtocol(H11Protocol):
        """Watches each connection from its first moment, and again from the first byte of each further request."""

        _headers_due: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - as in uvicorn
            """A client has come."""
            super().connection_made(transport)
            self._start_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            """It has gone."""
            self._cancel_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            """It has sent something."""
            super().data_received(data)
            if self.conn.their_state is h11.IDLE:
                self._start_timer()
            else:
                self._cancel_timer()

        def _start_timer(self) -> None:
            if self._headers_due is None:
                self._headers_due = self.loop.call_later(header_seconds, self._on_timeout)

        def _cancel_timer(self) -> None:
            if self._headers_due is not None:
                self._headers_due.cancel()
                self._headers_due = None

        def _on_timeout(self) -> None:
            self._headers_due = None
            if not self.transport.is_closing():
                error = ApiError(408, "The request's headers came too slowly.", "request_timeout")
                body = orjson.dumps(error.body)
                head = f"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
                self.transport.write(head.encode() + b"content-type: application/json\r\n\r\n" + body)
                self.transport.close()

    return HeaderTimeoutProtocol
