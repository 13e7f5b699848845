"""Every error as an answer in OpenAI's shape."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from ftpipe.errors import FtpipeError
from ftpipe.server.protocol import ApiError, printable
from ftpipe.server.storage import UnknownCursorError

log = logging.getLogger("ftpipe.server")


def _error_response(error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    extra = dict(headers or {})
    if error.status == HTTPStatus.UNAUTHORIZED:
        extra["www-authenticate"] = "Bearer"
    if error.status == HTTPStatus.TOO_MANY_REQUESTS:
        extra["retry-after"] = "30"
    if error.status == HTTPStatus.REQUEST_TIMEOUT:
        extra["connection"] = "close"  # the rest of the body is not waited for
    return JSONResponse(error.body, error.status, headers=extra)


async def _on_api_error(_request: Request, exc: Exception) -> Response:
    return _error_response(as_api_error(exc))


async def _on_http(request: Request, exc: Exception) -> Response:
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    headers = exc.headers if isinstance(exc, HTTPException) else None
    where = printable(f"{request.method} {request.url.path}")
    if status == HTTPStatus.NOT_FOUND:
        message = f"Unknown request URL: {where}."
        return _error_response(ApiError(status, message, "unknown_url"), headers)
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"Not allowed method: {where}."
        return _error_response(ApiError(status, message, "method_not_supported"), headers)
    return _error_response(ApiError(status, HTTPStatus(status).phrase), headers)


async def _on_disconnect(_request: Request, _exc: Exception) -> Response:
    # Nobody reads this answer.
    return Response(status_code=400)


async def _on_unhandled_exception(_request: Request, _exc: Exception) -> Response:
    message = "The server had an error while processing your request."
    return _error_response(ApiError(500, message, None, None, "server_error"))


def as_api_error(exc: Exception) -> ApiError:
    """One of our own errors as an answer; what went wrong inside is logged and not told."""
    if isinstance(exc, ApiError):
        return exc
    if isinstance(exc, UnknownCursorError):
        return ApiError(400, exc.message, "invalid_value", "after")
    log.error("a request could not be served: %s", exc)
    message = "The server cannot use its storage at the moment."
    return ApiError(503, message, "storage_unavailable", None, "server_error")


HANDLERS: dict[Any, Any] = {
    FtpipeError: _on_api_error,
    OSError: _on_api_error,
    HTTPException: _on_http,
    ClientDisconnect: _on_disconnect,
    Exception: _on_unhandled_exception,
}
