"""Starlette endpoints made from handlers: key, body, transaction and response of a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import anyio
import anyio.to_thread
import orjson
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from ftpipe.errors import FtpipeError
from ftpipe.server.http.disconnect import CancellableStream, ComputedStream, cancelled_with, watch_disconnect
from ftpipe.server.http.multipart import MultipartFormParser
from ftpipe.server.http.operation import Operation
from ftpipe.server.http.request_queue import RequestQueue, Slot
from ftpipe.server.http.urls import DEPLOYMENT_SCOPE_KEY
from ftpipe.server.idempotency import find_stored_response, request_fingerprint, store_response
from ftpipe.server.protocol import (
    ApiError,
    ApiRequest,
    Download,
    Handler,
    ReceivedUpload,
    Stream,
    model_unavailable,
    parse_json,
)
from ftpipe.server.services import ServerContext
from ftpipe.server.timeouts import body_with_deadline

MAX_FORM_OVERHEAD_BYTES = 1024 * 1024
"""What a form may be larger than its file."""
MAX_BYTES_PARSED_IN_EVENT_LOOP = 64 * 1024
"""A larger JSON body is parsed in a thread."""
WRITE_BUFFER_BYTES = 1024 * 1024
"""Bytes of a body that are collected before they are processed."""


class TransactionMode(Enum):
    """What a handler gets."""

    READ = "read"
    """A transaction that only reads."""
    WRITE = "write"
    """A transaction that is committed with the response."""
    NONE = "none"
    """None; it opens its own."""


@dataclass(frozen=True, slots=True)
class FileForm:
    """A body that is a multipart form with one file."""

    field: str
    max_file_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Serves one method of a path.

    Attributes:
        context: The server.
        mode: What the handler gets.
        handler: Runs in a thread.
        operation: What the API description says.
        form: The form that the body must be; a JSON object if ``None``.
        limiter: Limits the threads that run the handler and compute its stream; Starlette's if ``None``.
        queue: Limits the requests that are computed and that wait; none wait if ``None``.
        load_model: Starts to load the model that the handler needs; the request waits for it before it takes a slot.
        is_public: No key is needed; the owner is empty without a right one.
    """

    context: ServerContext
    mode: TransactionMode
    handler: Handler
    operation: Operation
    form: FileForm | None = None
    limiter: anyio.CapacityLimiter | None = None
    queue: RequestQueue | None = None
    load_model: Callable[[ApiRequest], Future[Any]] | None = None
    is_public: bool = False

    async def handle(self, request: Request) -> Response:
        """Respond to a request."""
        async with self.receive(request) as parsed:
            return await self.respond(request, parsed)

    @asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[ApiRequest]:
        """Check the key of a request and read its body."""
        keys = self.context.api_keys
        owner = keys.owner_or_empty(request.headers) if self.is_public else keys.owner(request.headers)
        with self.context.in_flight_keys.acquire(owner, _idempotency_key(request)):
            async with self._parse(request, owner) as parsed:
                yield parsed

    async def respond(self, request: Request, parsed: ApiRequest) -> Response:
        """Respond to a request that was received."""
        queue = self.queue
        if queue is None:
            return await self._run_in_thread(request, parsed)
        return await run_queued(
            queue,
            request,
            parsed,
            prepare=lambda: self._wait_for_model(queue, parsed),
            compute=lambda: self._run_in_thread(request, parsed),
        )

    async def _wait_for_model(self, queue: RequestQueue, parsed: ApiRequest) -> None:
        """Wait until the model is loaded, without a slot: requests for other models go on."""
        load_model = self.load_model
        if load_model is None:
            return
        if not queue.has_slot(parsed.owner):
            queue.refuse_if_full(parsed.owner)  # before a thread is needed to find the model
        future = await anyio.to_thread.run_sync(load_model, parsed)
        if future.done():
            return  # an error of the load is reported by the handler
        with queue.waiting_elsewhere(parsed.owner), cancelled_with(parsed.cancel_token):
            try:
                async with asyncio.timeout(self.context.settings.max_load_seconds):
                    await asyncio.wrap_future(future)
            except TimeoutError as exc:
                message = "The model is still being loaded. Try again later."
                raise ApiError(503, message, "model_loading", "model", "server_error") from exc
            except FtpipeError as exc:
                raise model_unavailable(exc) from exc

    async def _run_in_thread(self, request: Request, parsed: ApiRequest) -> Response:
        def run() -> Response:
            with self.context.active_requests.working_thread():
                return self._run_handler(request, parsed, _idempotency_key(request))

        return await anyio.to_thread.run_sync(run, limiter=self.limiter)

    @asynccontextmanager
    async def _parse(self, request: Request, owner: str) -> AsyncIterator[ApiRequest]:
        """The request for the handler; a file that the handler did not move is deleted afterwards."""
        if self.form is None:
            body = await self._read_json(request) if request.method == "POST" else {}
            if DEPLOYMENT_SCOPE_KEY in request.scope:
                body = {**body, "model": request.scope[DEPLOYMENT_SCOPE_KEY]}
            yield self._api_request(request, owner, body)
            return
        form = MultipartFormParser(
            request.headers.get("content-type", ""),
            self.context.data_dir.incoming,
            file_field=self.form.field,
            max_file_bytes=self.form.max_file_bytes,
        )
        try:
            async for piece in self._read_body(request, self.form.max_file_bytes + MAX_FORM_OVERHEAD_BYTES):
                await anyio.to_thread.run_sync(form.feed, piece)
            await anyio.to_thread.run_sync(form.finish)
            yield self._api_request(request, owner, form.fields, form.file)
        finally:
            form.close()

    def _api_request(
        self, request: Request, owner: str, body: Mapping[str, Any], file: ReceivedUpload | None = None
    ) -> ApiRequest:
        token = self.context.active_requests.new_token()
        query = dict(request.query_params)
        if not query.get("after"):
            query.pop("after", None)  # clients send an empty cursor with the first page
        return ApiRequest(owner, dict(request.path_params), query, body, file, token)

    async def _read_json(self, request: Request) -> Mapping[str, Any]:
        raw = b"".join([piece async for piece in self._read_body(request, self.context.settings.max_body_bytes)])
        if not raw:
            return {}
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            message = "The body must be sent as Content-Type: application/json."
            raise ApiError(415, message, "invalid_content_type")
        try:
            is_large = len(raw) > MAX_BYTES_PARSED_IN_EVENT_LOOP
            body = await anyio.to_thread.run_sync(parse_json, raw) if is_large else parse_json(raw)
        except orjson.JSONDecodeError as exc:
            message = "We could not parse the JSON body of your request."
            raise ApiError(400, message, "invalid_json") from exc
        except ValueError as exc:
            message = f"The JSON body cannot be used: {exc}."
            raise ApiError(400, message, "invalid_json") from exc
        if not isinstance(body, dict):
            message = "The JSON body must be an object."
            raise ApiError(400, message, "invalid_json")
        return body

    async def _read_body(self, request: Request, max_bytes: int) -> AsyncIterator[bytes]:
        """The body in large pieces; one that is too large or stalls is refused."""
        too_large = ApiError(413, f"The request body is larger than {max_bytes} bytes.", "request_too_large")
        if int(request.headers.get("content-length") or 0) > max_bytes:
            raise too_large
        size = 0
        buffer = bytearray()
        async for piece in body_with_deadline(request, self.context.settings.body_timeout):
            size += len(piece)
            if size > max_bytes:
                raise too_large
            buffer += piece
            if len(buffer) >= WRITE_BUFFER_BYTES:
                yield bytes(buffer)
                buffer.clear()
        yield bytes(buffer)

    def _run_handler(self, request: Request, parsed: ApiRequest, key: str | None) -> Response:
        store = self.context.store
        if self.mode is TransactionMode.NONE:
            return self._to_response(self.handler(parsed), parsed)
        if self.mode is TransactionMode.READ:
            with store.read() as tx:
                return self._to_response(self.handler(parsed, tx), parsed)
        if key is None:
            with store.write() as tx:
                return self._to_response(self.handler(parsed, tx), parsed)
        fingerprint = request_fingerprint(request.method, request.url.path, parsed)
        with store.write() as tx:
            stored = find_stored_response(tx, parsed.owner, key, fingerprint)
            if stored is not None:
                return JSONResponse(stored.body, stored.status, headers={"idempotent-replayed": "true"})
            body = self.handler(parsed, tx)
            if isinstance(body, Mapping):
                store_response(tx, parsed.owner, key, fingerprint, body)
            return self._to_response(body, parsed)

    def _to_response(self, result: Mapping[str, Any] | Stream | Download, parsed: ApiRequest) -> Response:
        if isinstance(result, Stream):
            active = self.context.active_requests
            return ComputedStream(result.pieces, parsed.cancel_token, active, self.limiter, result.media_type)
        if isinstance(result, Download):
            return FileResponse(result.path, media_type="application/octet-stream", filename=result.filename)
        return JSONResponse(result)


async def run_queued(
    queue: RequestQueue,
    request: Request,
    parsed: ApiRequest,
    *,
    prepare: Callable[[], Awaitable[None]],
    compute: Callable[[], Awaitable[Response]],
) -> Response:
    """Prepare, wait for a slot, and compute the response; all of it ends when the client disconnects."""
    slot: Slot | None = None
    response: Response | None = None
    try:
        async with watch_disconnect(request.receive, parsed.cancel_token):
            await prepare()
            slot = await queue.acquire(parsed.owner)
            response = await compute()
        if isinstance(response, CancellableStream):
            response.call_at_end(slot.release)
            slot = None
        return response
    finally:
        if slot is not None:
            if isinstance(response, CancellableStream):
                await response.close()
            slot.release()


def _idempotency_key(request: Request) -> str | None:
    return request.headers.get("idempotency-key") if request.method == "POST" else None
