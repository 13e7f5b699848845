"""Watch the connection of a request while it is computed, and cancel the work when the client disconnects."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from ftpipe.errors import FtpipeError
from ftpipe.server.cancellation import ActiveRequests, CancelToken, RequestCancelledError
from ftpipe.server.http.error_handlers import to_api_error
from ftpipe.server.protocol import data_event, server_is_stopping


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


@contextmanager
def cancelled_with(token: CancelToken) -> Iterator[None]:
    """Cancel what is awaited inside when ``token`` is cancelled, from any thread.

    Raises:
        RequestCancelledError: It was.
    """
    loop = asyncio.get_running_loop()
    scope = anyio.CancelScope()

    def cancel() -> None:
        loop.call_soon_threadsafe(scope.cancel)

    token.on_cancel(cancel)
    with scope:
        yield
    if scope.cancelled_caught:
        token.raise_if_cancelled()


class CancellableStream(StreamingResponse):
    """A streamed response whose pieces are not computed any more once the client has disconnected.

    Starlette stops at a disconnect only between two pieces; one piece can be a whole answer that is held back.

    Args:
        token: Cancelled when the client disconnects.
        media_type: Type of the content.
    """

    def __init__(self, token: CancelToken, media_type: str) -> None:
        self._token = token
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
        """End what computes the pieces."""
        try:
            with anyio.CancelScope(shield=True):
                await self._close_pieces()
        finally:
            self._on_end()

    async def _iterate(self) -> AsyncIterator[str | bytes]:
        try:
            while (piece := await self._next_piece()) is not None:
                yield piece
        except RequestCancelledError:
            yield data_event(server_is_stopping().body)
        except (FtpipeError, OSError) as exc:
            yield data_event(to_api_error(exc).body)  # OpenAI's clients raise its error

    @abstractmethod
    async def _next_piece(self) -> str | bytes | None:
        """The next piece; ``None`` after the last one."""

    @abstractmethod
    async def _close_pieces(self) -> None:
        """Let go of what computes the pieces."""


class ComputedStream(CancellableStream):
    """A stream whose pieces are computed in threads.

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
        self._active = active
        self._limiter = limiter
        super().__init__(token, media_type)

    async def _next_piece(self) -> str | bytes | None:
        return await anyio.to_thread.run_sync(self._in_thread, lambda: next(self._pieces, None), limiter=self._limiter)

    async def _close_pieces(self) -> None:
        close = getattr(self._pieces, "close", None)
        if close is not None:
            await anyio.to_thread.run_sync(self._in_thread, close)

    def _in_thread(self, function: Callable[[], str | bytes | None]) -> str | bytes | None:
        with self._active.working_thread():
            return function()


class ForwardedStream(CancellableStream):
    """A stream whose pieces come from another host.

    Args:
        pieces: Reads the pieces; closed in the end.
        token: Cancelled when the client disconnects or the server stops.
    """

    def __init__(self, pieces: AsyncIterator[bytes], token: CancelToken) -> None:
        self._pieces = pieces
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scope: anyio.CancelScope | None = None
        super().__init__(token, "text/event-stream")

    async def _next_piece(self) -> bytes | None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._token.on_cancel(self._cancel_read)
        self._token.raise_if_cancelled()
        with anyio.CancelScope() as self._scope:
            return await anext(self._pieces, None)
        self._token.raise_if_cancelled()
        return None

    def _cancel_read(self) -> None:
        """Called in any thread."""
        if self._loop is not None and self._scope is not None:
            self._loop.call_soon_threadsafe(self._scope.cancel)

    async def _close_pieces(self) -> None:
        close = getattr(self._pieces, "aclose", None)
        if close is not None:
            await close()
