"""Every error as a response in OpenAI's format."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from ftpipe.errors import FtpipeError
from ftpipe.server.http.urls import unknown_url_message
from ftpipe.server.protocol import ApiError, printable, storage_unavailable
from ftpipe.server.storage import UnknownCursorError

log = logging.getLogger("ftpipe.server")

RETRY_AFTER_SECONDS = 30


def _error_response(error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    extra = dict(headers or {})
    if error.status == HTTPStatus.UNAUTHORIZED:
        extra["www-authenticate"] = "Bearer"
    if error.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        extra["retry-after"] = str(math.ceil(error.retry_after or RETRY_AFTER_SECONDS))
    if error.status == HTTPStatus.REQUEST_TIMEOUT:
        extra["connection"] = "close"  # the rest of the body is not waited for
    return JSONResponse(error.body, error.status, headers=extra)


async def _on_own_error(_request: Request, exc: Exception) -> Response:
    return _error_response(to_api_error(exc))


async def _on_http_exception(request: Request, exc: Exception) -> Response:
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    headers = exc.headers if isinstance(exc, HTTPException) else None
    if status == HTTPStatus.NOT_FOUND:
        message = unknown_url_message(request.method, request.scope["path"])
        return _error_response(ApiError(status, message, "unknown_url"), headers)
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"Method not allowed: {printable(f'{request.method} {request.url.path}')}."
        return _error_response(ApiError(status, message, "method_not_supported"), headers)
    return _error_response(ApiError(status, HTTPStatus(status).phrase), headers)


async def _on_disconnect(_request: Request, _exc: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _on_unexpected_error(_request: Request, _exc: Exception) -> Response:
    message = "The server had an error while processing your request."
    return _error_response(ApiError(500, message, None, None, "server_error"))


def to_api_error(exc: Exception) -> ApiError:
    """One of our own errors as a response; the details of an internal error go to the log, not to the client."""
    if isinstance(exc, ApiError):
        return exc
    if isinstance(exc, UnknownCursorError):
        return ApiError(400, exc.message, "invalid_value", "after")
    log.error("a request could not be served: %s", exc)
    return storage_unavailable()


HANDLERS: dict[Any, Any] = {
    FtpipeError: _on_own_error,
    OSError: _on_own_error,
    HTTPException: _on_http_exception,
    ClientDisconnect: _on_disconnect,
    Exception: _on_unexpected_error,
}
