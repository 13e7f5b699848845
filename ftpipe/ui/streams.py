"""Server-sent events: one stream for each page that is open, which ends when the page or the server does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import StreamingResponse

INTERVAL_SECONDS = 1.0
"""How often a stream looks for something new."""
PING_SECONDS = 15.0
"""A comment is sent after so long without an event, so that a broken connection is noticed."""
MAX_STREAMS = 64
"""Streams at the same time; each waits most of the time."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    An event without a name is HTML that htmx puts into the page; one with a name is an event for scripts.
    """

    data: str
    name: str = ""
    is_last: bool = False
    """Whether nothing comes after it, so that the page closes the stream."""

    @classmethod
    def of_json(cls, name: str, value: Any) -> Event:  # noqa: ANN401  # any JSON value
        """An event for scripts."""
        return cls(json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")), name)

    def encode(self) -> bytes:
        """The event as it is sent."""
        head = f"event: {self.name}\n" if self.name else ""
        lines = "".join(f"data: {line}\n" for line in self.data.replace("\r", "\n").split("\n"))
        return f"{head}{lines}\n".encode("utf-8", "replace")


class Streams:
    """The streams of a server."""

    def __init__(self) -> None:
        self._closing = asyncio.Event()
        self._open = 0

    def close(self) -> None:
        """End all streams; called in the event loop when the server begins to stop."""
        self._closing.set()

    def response(
        self,
        request: Request,
        produce: Callable[[], Iterable[Event]],
        *,
        on_end: Callable[[], None] = lambda: None,
        seconds: float = INTERVAL_SECONDS,
    ) -> StreamingResponse:
        """A stream.

        Args:
            request: The request.
            produce: Called in a thread every ``seconds``: the events since the call before.
            on_end: Called when the stream has ended, for whatever reason.
            seconds: Time between two calls.
        """
        body = self._events(request, produce, on_end, seconds)
        return StreamingResponse(body, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    async def _events(
        self, request: Request, produce: Callable[[], Iterable[Event]], on_end: Callable[[], None], seconds: float
    ) -> AsyncIterator[bytes]:
        self._open += 1
        try:
            if self._open > MAX_STREAMS:
                yield b"retry: 30000\n\n"
                return
            yield b"retry: 2000\n\n"
            silent = 0.0
            while not await request.is_disconnected():
                events = list(await run_in_threadpool(produce))
                for event in events:
                    yield event.encode()
                if any(event.is_last for event in events):
                    return
                silent = 0.0 if events else silent + seconds
                if silent >= PING_SECONDS:
                    silent = 0.0
                    yield b": still here\n\n"
                try:
                    await asyncio.wait_for(self._closing.wait(), seconds)
                except TimeoutError:
                    continue
                return
        finally:
            self._open -= 1
            on_end()
