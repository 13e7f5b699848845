"""Answer one request of a batch, and write the answer as a line of the output or error file.

Source: OpenAI API description, BatchRequestOutput, 2026-08-21. An error of a single request stands in the body of its
response: openai/openai-openapi#302, 2024-08-02.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ftpipe.errors import FtpipeError
from ftpipe.server.cancellation import RequestCancelledError
from ftpipe.server.protocol import ApiError, ApiRequest, bad_request, new_id

log = logging.getLogger("ftpipe.server.batches")

RETRY_PAUSES_SECONDS = (1.0, 5.0)
"""Pauses before a request is answered again that failed for another reason than what it asks for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The response to a request."""

    status: int
    body: Mapping[str, Any]

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt; 0 if they are not known."""
        return self._usage("prompt_tokens", "input_tokens")

    @property
    def output_tokens(self) -> int:
        """Tokens of the answer; 0 if they are not known."""
        return self._usage("completion_tokens", "output_tokens")

    def _usage(self, *names: str) -> int:
        usage = self.body.get("usage")
        values = [usage.get(name) for name in names] if isinstance(usage, Mapping) else []
        return next((value for value in values if type(value) is int and value >= 0), 0)


def answer_request(handler: Callable[[ApiRequest], Any], request: ApiRequest, stop_event: threading.Event) -> Answer:
    """Answer a request; one that fails for another reason than what it asks for is tried again.

    Raises:
        RequestCancelledError: The request was cancelled.
    """
    for pause in (*RETRY_PAUSES_SECONDS, None):
        error = ApiError(500, "The server had an error while processing your request.", kind="server_error")
        try:
            if request.body.get("stream"):
                message = "A request of a batch cannot be streamed."
                raise bad_request(message, "stream")
            return Answer(200, handler(request))
        except RequestCancelledError:
            raise
        except ApiError as exc:
            error = exc
        except FtpipeError as exc:
            log.error("a request of a batch could not be answered: %s", exc)
        except Exception:
            log.exception("a request of a batch could not be answered")
        request.cancel_token.raise_if_cancelled()  # what fails because the server stops is no answer
        if pause is None or (error.status < 500 and error.status != 429):
            break
        stop_event.wait(pause)
    return Answer(error.status, error.body)


def answer_line(custom_id: str, answer: Answer) -> str:
    """The line of an answer."""
    response = {"status_code": answer.status, "request_id": new_id("req_"), "body": answer.body}
    return _line(custom_id, response, None)


def error_line(custom_id: str, code: str, message: str) -> str:
    """The line of a request that was not sent."""
    return _line(custom_id, None, {"code": code, "message": message})


def _line(custom_id: str, response: Mapping[str, Any] | None, error: Mapping[str, Any] | None) -> str:
    line = {"id": new_id("batch_req_"), "custom_id": custom_id, "response": response, "error": error}
    return json.dumps(line, ensure_ascii=False, allow_nan=False)
