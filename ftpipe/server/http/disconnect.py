"""Watch the connection of a request while it is computed, and cancel the work when the client disconnects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from ftpipe.server.cancellation import ActiveRequests, CancelToken, RequestCancelledError
from ftpipe.server.protocol import ApiError


@asynccontextmanager
async def watch_disconnect(receive: Receive, token: CancelToken) -> AsyncIterator[None]:
    """Cancel ``token``, and whatever is awaited inside, when the client disconnects.

    The body must have been read. A thread that is awaited is waited for: it ends at its next look at the token.

    Raises:
        ClientDisconnect: The client has disconnected.
        ApiError: 503 if the work was cancelled because the server is stopping.
    """
    scope = anyio.CancelScope()
    is_disconnected = False

    async def watch() -> None:
        nonlocal is_disconnected
        while (await receive())["type"] != "http.disconnect":
            pass
        is_disconnected = True
        token.cancel()
        scope.cancel()

    watcher = asyncio.create_task(watch())
    try:
        with scope:
            yield
    except RequestCancelledError as exc:
        if not is_disconnected:
            raise server_is_stopping() from exc
    finally:
        watcher.cancel()
    if is_disconnected:
        raise ClientDisconnect


def server_is_stopping() -> ApiError:
    """The error of a request that a stopping server ends."""
    return ApiError(503, "The server is stopping.", "server_stopping", None, "server_error")


class CancellableStream(StreamingResponse):
    """A streamed response whose pieces are computed in threads, and no longer once the client has disconnected.

    Starlette stops at a disconnect only between two pieces; one piece can be a whole answer that is held back.

    Args:
        pieces: Computes the pieces; closed in the end.
        token: Cancelled when the client disconnects.
        active: Counts the threads.
        limiter: Limits the threads.
        media_type: Type of the content.
    """

    def __init__(
        self,
        pieces: Iterator[str | bytes],
        token: CancelToken,
        active: ActiveRequests,
        limiter: anyio.CapacityLimiter | None,
        media_type: str,
    ) -> None:
        self._pieces = pieces
        self._token = token
        self._active = active
        self._limiter = limiter
        self._on_end: Callable[[], None] = lambda: None
        super().__init__(self._iterate(), media_type=media_type)

    def call_at_end(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once nothing is computed any more."""
        self._on_end = callback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # as in ASGI
        """Send the pieces until the last one, or until the client disconnects."""

        async def send_or_disconnect(message: Message) -> None:
            try:
                await send(message)
            except OSError as exc:
                raise ClientDisconnect from exc

        try:
            async with watch_disconnect(receive, self._token):
                await self.stream_response(send_or_disconnect)
        except ClientDisconnect:
            self._token.cancel()  # nobody reads the rest
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the iterator, in a thread."""
        close = getattr(self._pieces, "close", None)
        try:
            if close is not None:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._in_thread, close)
        finally:
            self._on_end()

    async def _iterate(self) -> AsyncIterator[str | bytes]:
        try:
            while True:
                piece = await anyio.to_thread.run_sync(
                    self._in_thread, lambda: next(self._pieces, None), limiter=self._limiter
                )
                if piece is None:
                    return
                yield piece
        except RequestCancelledError:
            yield f"data: {json.dumps(server_is_stopping().body)}\n\n"

    def _in_thread(self, function: Callable[[], str | bytes | None]) -> str | bytes | None:
        with self._active.working_thread():
            return function()
