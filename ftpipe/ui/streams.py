"""Server-sent events: one stream for each page that is open, which ends when the page or the server does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
RETRY_MS, BUSY_RETRY_MS = 2000, 30_000
"""When a page connects again after its stream has ended, and after it was one too many."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    An event without a name is HTML that htmx puts into the page; one with a name is an event for scripts.
    """

    data: str
    name: str = ""
    retry_ms: int | None = None
    """When to connect again after the stream ends; htmx takes this only together with a name or data."""
    is_last: bool = False
    """Whether nothing comes after it, so that the page closes the stream."""

    @classmethod
    def of_json(cls, name: str, value: Any) -> Event:  # noqa: ANN401  # any JSON value
        """An event for scripts."""
        return cls(json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")), name)

    def encode(self) -> bytes:
        """The event as it is sent."""
        head = f"event: {self.name}\n" if self.name else ""
        head += f"retry: {self.retry_ms}\n" if self.retry_ms is not None else ""
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
        while_open: AbstractContextManager[object] | None = None,
        seconds: float = INTERVAL_SECONDS,
    ) -> StreamingResponse:
        """A stream.

        Args:
            request: The request.
            produce: Called in a thread every ``seconds``: the events since the call before.
            while_open: Entered when the stream begins, and left when it ends, for whatever reason.
            seconds: Time between two calls.
        """
        body = self._events(request, produce, while_open or nullcontext(), seconds)
        return StreamingResponse(body, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    async def _events(
        self,
        request: Request,
        produce: Callable[[], Iterable[Event]],
        while_open: AbstractContextManager[object],
        seconds: float,
    ) -> AsyncIterator[bytes]:
        if self._open >= MAX_STREAMS:
            yield Event("", "busy", retry_ms=BUSY_RETRY_MS).encode()
            return
        with self._counted(), while_open:
            yield Event("", "connected", retry_ms=RETRY_MS).encode()
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

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
