"""One request and its answer: from HTTP to a handler's call, and back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import orjson
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse

from ftpipe.server.http.middleware import ROUTE_SCOPE_KEY
from ftpipe.server.http.multipart import MultipartFormParser
from ftpipe.server.http.timeouts import body_deadline
from ftpipe.server.idempotency import find_stored_response, fingerprint, store_response
from ftpipe.server.protocol import ApiError, ApiRequest, ApiResponse, Handler
from ftpipe.server.services import ServerContext

Chunk = TypeVar("Chunk", str, bytes)

MAX_FORM_OVERHEAD_BYTES = 1024 * 1024
"""What a form may be larger than its file, in bytes."""
WRITE_BUFFER_BYTES = 1024 * 1024
"""Bytes that are gathered before they are handed to the disk."""
MAX_CONCURRENT_GENERATIONS = 8
"""Chats that compute at the same time; more wait, so that other requests are answered."""


class TransactionMode(Enum):
    """What a handler needs."""

    READ = "read"
    """A transaction that only reads."""
    WRITE = "write"
    """A transaction that is committed with the answer."""
    NONE = "none"
    """None; it opens its own."""


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """One route."""

    method: str
    path: str
    kind: TransactionMode
    handler: Handler
    file_field: str | None = None
    """Name of the file field, where the body is a multipart form."""
    max_file_bytes: int = 0
    """Largest file of the form, in bytes."""
    long_running: bool = False
    """Computes for long: gets threads of its own."""
    public: bool = False
    """Needs no key."""


class Endpoint:
    """Serves one route.

    Args:
        entry: The route.
        house: The server.
    """

    def __init__(self, entry: RouteSpec, house: ServerContext) -> None:
        self._entry = entry
        self._house = house
        self._limiter: anyio.CapacityLimiter | None = None

    @property
    def method(self) -> str:
        """The method that it serves."""
        return self._entry.method

    async def handle(self, request: Request) -> Response:
        """Take a request and answer it."""
        request.scope[ROUTE_SCOPE_KEY] = self._entry.path
        owner = "" if self._entry.public else self._house.api_keys.owner(request.headers.get("authorization"))
        key = request.headers.get("idempotency-key") if self._entry.method == "POST" else None
        if self._entry.long_running and self._limiter is None:
            self._limiter = anyio.CapacityLimiter(MAX_CONCURRENT_GENERATIONS)
        with self._house.in_flight.acquire(owner, key):
            async with self._parse_request(request, owner) as call:
                work = partial(self._run_handler, call, key, request.url.path)
                answer = await anyio.to_thread.run_sync(work, limiter=self._limiter)
        return self._response(answer)

    @asynccontextmanager
    async def _parse_request(self, request: Request, owner: str) -> AsyncIterator[ApiRequest]:
        """The request as a call; a file that no handler took over is removed afterwards."""
        path = dict(request.path_params)
        query = dict(request.query_params)
        if self._entry.file_field is None:
            body = await self._read_json(request) if request.method == "POST" else {}
            yield ApiRequest(owner, path, query, body)
            return
        form = MultipartFormParser(
            request.headers.get("content-type", ""),
            self._house.data_dir.incoming,
            file_field=self._entry.file_field,
            max_file_bytes=self._entry.max_file_bytes,
        )
        try:
            async for piece in self._read_body(request, self._entry.max_file_bytes + MAX_FORM_OVERHEAD_BYTES):
                await anyio.to_thread.run_sync(form.feed, piece)
            await anyio.to_thread.run_sync(form.finish)
            yield ApiRequest(owner, path, query, form.fields, form.file)
        finally:
            form.close()

    async def _read_json(self, request: Request) -> Mapping[str, Any]:
        most = self._house.settings.max_body_bytes
        raw = b"".join([piece async for piece in self._read_body(request, most)])
        if not raw:
            return {}
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            message = "The body must be sent as Content-Type: application/json."
            raise ApiError(415, message, "invalid_content_type")
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError as exc:
            message = "We could not parse the JSON body of your request."
            raise ApiError(400, message, "invalid_json") from exc
        if not isinstance(body, dict):
            message = "The JSON body must be an object."
            raise ApiError(400, message, "invalid_json")
        return body

    async def _read_body(self, request: Request, most: int) -> AsyncIterator[bytes]:
        """The body in batches; too large a one or one that stalls is refused."""
        too_large = ApiError(413, f"The request body is larger than {most} bytes.", "request_too_large")
        if int(request.headers.get("content-length") or 0) > most:
            raise too_large
        size = 0
        batch = bytearray()
        async for piece in _chunks_with_deadline(request, self._house.settings.body_timeout):
            size += len(piece)
            if size > most:
                raise too_large
            batch += piece
            if len(batch) >= WRITE_BUFFER_BYTES:
                yield bytes(batch)
                batch.clear()
        yield bytes(batch)

    def _run_handler(self, call: ApiRequest, key: str | None, path: str) -> ApiResponse:
        """Run the handler, in a thread."""
        entry = self._entry
        if entry.kind is TransactionMode.NONE:
            return _as_response(entry.handler(call))
        if entry.kind is TransactionMode.READ:
            with self._house.store.read() as tx:
                return _as_response(entry.handler(call, tx))
        asked = fingerprint(entry.method, path, call)
        with self._house.store.write() as tx:
            earlier = None if key is None else find_stored_response(tx, call.owner, key, asked)
            if earlier is not None:
                return earlier
            answer = _as_response(entry.handler(call, tx))
            if key is not None:
                store_response(tx, call.owner, key, asked, answer.body or {})
            return answer

    def _response(self, answer: ApiResponse) -> Response:
        if answer.events is not None:
            return StreamingResponse(
                _iterate_in_threadpool(answer.events, self._limiter), media_type="text/event-stream"
            )
        if answer.text is not None:
            return StreamingResponse(_iterate_in_threadpool(answer.text, None), media_type="text/plain")
        if answer.download is not None:
            return _file(answer)
        headers = {"idempotent-replayed": "true"} if answer.replayed else None
        return JSONResponse(answer.body, answer.status, headers=headers)


class MethodRouter:
    """The methods of one path, kept together so that a wrong method is answered with all the right ones."""

    def __init__(self) -> None:
        self._exchanges: dict[str, Endpoint] = {}

    def add(self, exchange: Endpoint) -> None:
        """Add the exchange of one method."""
        self._exchanges[exchange.method] = exchange

    @property
    def methods(self) -> list[str]:
        """The methods that are served."""
        return list(self._exchanges)

    async def answer(self, request: Request) -> Response:
        """Answer by method; HEAD is GET without its body."""
        return await self._exchanges["GET" if request.method == "HEAD" else request.method].handle(request)


def _as_response(given: ApiResponse | Mapping[str, Any]) -> ApiResponse:
    return given if isinstance(given, ApiResponse) else ApiResponse(body=given)


def _file(answer: ApiResponse) -> Response:
    if answer.download is None or not answer.download.is_file():
        message = "The file's content is gone."
        raise ApiError(404, message)
    return FileResponse(answer.download, media_type="application/octet-stream", filename=answer.filename)


async def _chunks_with_deadline(request: Request, seconds: float) -> AsyncIterator[bytes]:
    """The body's pieces; none may take longer than ``seconds``, and all together must keep a least speed."""
    stream = request.stream()
    waited, received = 0.0, 0
    while True:
        left = body_deadline(seconds, received) - waited
        asked = time.monotonic()
        try:
            piece = await asyncio.wait_for(anext(stream), min(seconds, left))
        except StopAsyncIteration:
            return
        except TimeoutError as exc:
            message = "The request body came too slowly."
            raise ApiError(408, message, "request_timeout") from exc
        waited += time.monotonic() - asked
        received += len(piece)
        yield piece


async def _iterate_in_threadpool(
    pieces: Iterator[Chunk], limiter: anyio.CapacityLimiter | None
) -> AsyncIterator[Chunk]:
    """Compute each piece in a thread; when the client goes away, the computing ends."""
    try:
        while (piece := await anyio.to_thread.run_sync(next, pieces, None, limiter=limiter)) is not None:
            yield piece
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(close)
