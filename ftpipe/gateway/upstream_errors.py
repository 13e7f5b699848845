"""Errors of other hosts in OpenAI's words, without the key, the address and the model's name there."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftpipe.errors import FtpipeError
from ftpipe.server.protocol import ApiError, printable

log = logging.getLogger("ftpipe.server.gateway")

MAX_MESSAGE_CHARACTERS = 500
MAX_WORD_CHARACTERS = 64
MAX_RETRY_AFTER_SECONDS = 3600.0
MIN_SECRET_CHARACTERS = 8
"""A shorter text can occur in any message."""
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_PASSED_STATUSES = frozenset({400, 409, 413, 422, 429, 503})
"""Statuses that mean the same to the client of the server: its request is wrong, or it should wait."""


class ModelMissingError(ApiError):
    """The host does not have the model; nothing was computed."""


class NotConnectedError(ApiError):
    """No connection to the host was made, so it has not got the request."""


@dataclass(frozen=True, slots=True)
class UpstreamMessages:
    """What messages about a chat name, and what they leave out.

    Attributes:
        name: The model's name that the client sent.
        model: Its name at the host.
        secrets: The key and the host's name.
    """

    name: str
    model: str
    secrets: tuple[str, ...]

    def error_of(self, status: int, body: Mapping[str, Any] | None, retry_after: str = "") -> ApiError:
        """The error for a refusal."""
        fields = _error_fields(body)
        message = self.public(fields.get("message")) or f"The host of the model '{printable(self.name)}' refused it."
        code, param = self._word(fields.get("code")), self._word(fields.get("param"))
        if status == 402:
            error = ApiError(
                429, "No credit is left at the model's host.", "insufficient_quota", None, "insufficient_quota"
            )
        elif status in (401, 403):
            error = self._unavailable(502, "refused the server's key")
        elif status == 404:
            error = self.model_missing()
        elif status == 503:
            error = ApiError(503, message, code or "model_unavailable", "model", "server_error")
        elif status in _PASSED_STATUSES:
            kind = "requests" if status == 429 else "invalid_request_error"
            error = ApiError(status, message, code or ("rate_limit_exceeded" if status == 429 else None), param, kind)
        else:
            error = self._unavailable(502, "has a problem")
        error.retry_after = _seconds(retry_after)
        return error

    def model_missing(self) -> ModelMissingError:
        """The error for a model that the host does not have."""
        message = f"The host of the model '{printable(self.name)}' does not have it, or it is not deployed there."
        return ModelMissingError(502, message, "model_unavailable", "model", "server_error")

    def public(self, text: object) -> str:
        """A message of the host as a client may see it; empty if it is no text."""
        if not isinstance(text, str):
            return ""
        for hidden, shown in (*((secret, "…") for secret in self.secrets), (self.model, self.name)):
            if len(hidden) >= MIN_SECRET_CHARACTERS:
                text = shown.join(re.split(re.escape(hidden), text, flags=re.IGNORECASE))
        text = _URL.sub("…", text)
        return printable(" ".join(text.split()), MAX_MESSAGE_CHARACTERS)

    def _word(self, value: object) -> str | None:
        text = self.public(value) or (str(value) if isinstance(value, int) else "")
        return text if 0 < len(text) <= MAX_WORD_CHARACTERS else None

    def _unavailable(self, status: int, what: str) -> ApiError:
        message = f"The host of the model '{printable(self.name)}' {what}."
        return ApiError(status, message, "model_unavailable", "model", "server_error")


def invalid_answer(messages: UpstreamMessages) -> ApiError:
    """The error for an answer that is not complete, too large, or not one to a chat."""
    message = f"The host of the model '{printable(messages.name)}' sent an answer that cannot be used."
    return ApiError(502, message, "model_unavailable", "model", "server_error")


def timed_out(messages: UpstreamMessages) -> ApiError:
    """The error for a host that does not answer in time."""
    message = f"The host of the model '{printable(messages.name)}' did not answer in time."
    return ApiError(504, message, "model_timeout", "model", "server_error")


def unreachable(messages: UpstreamMessages, *, is_connected: bool) -> ApiError:
    """The error for a host that cannot be reached, or whose connection breaks."""
    message = f"The connection to the host of the model '{printable(messages.name)}' failed."
    error_type = ApiError if is_connected else NotConnectedError
    return error_type(502, message, "model_unavailable", "model", "server_error")


def unusable_route(name: str, error: FtpipeError) -> ApiError:
    """The error for a model whose host cannot be called; why is in the log, which only the server's owner reads."""
    log.error("the model %r cannot be reached: %s", name, error)
    message = f"The model '{printable(name)}' cannot be reached at the moment; the server's log says why."
    return ApiError(503, message, "model_unavailable", "model", "server_error")


def _error_fields(body: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The error object of a body: OpenAI's, or the fields at the top, as other hosts send them."""
    if body is None:
        return {}
    inner = body.get("error", body)
    return inner if isinstance(inner, Mapping) else {"message": inner}


def _seconds(text: str) -> float | None:
    return min(float(text), MAX_RETRY_AFTER_SECONDS) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text) else None
