"""Ask a model for a mirrored chat, and compare its answer with the one that the caller got."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ftpipe.errors import FtpipeError
from ftpipe.grading.answer_agreement import answer_text, canonical_answer
from ftpipe.grading.graders import Grader, GradingContext
from ftpipe.records.evaluation import TokenPrice
from ftpipe.server.cancellation import RequestCancelledError
from ftpipe.server.protocol import ApiError, ApiRequest, printable
from ftpipe.server.routed_chats import RoutedChats
from ftpipe.server.shadow.low_priority import LowPriorityToken
from ftpipe.server.shadow.sampling import digest

MAX_ERROR_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class ModelReply:
    """What a model answered, or why it did not."""

    message: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    """Without the time that it waited for callers."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    """``prompt`` and ``completion``, if they are known."""
    error: str | None = None
    is_billed: bool = True
    """False if it is certain that the host did not answer."""

    def cost(self, price: TokenPrice | None, highest: float) -> float:
        """What it cost; the highest possible cost if its tokens are not known."""
        if not self.is_billed or price is None:
            return 0.0
        if not self.tokens:
            return highest
        return price.cost(self.tokens["prompt"], self.tokens["completion"])


def ask(models: RoutedChats, owner: str, body: Mapping[str, Any], token: LowPriorityToken) -> ModelReply:
    """Send a mirrored chat.

    Raises:
        RequestCancelledError: The server is stopping.
    """
    started, waited = time.perf_counter(), token.waited_seconds
    try:
        answer = models.complete(ApiRequest(owner, body=body, cancel_token=token, is_mirrored=True, priority="batch"))
    except RequestCancelledError:
        raise
    except FtpipeError as exc:
        is_refused = isinstance(exc, ApiError) and 400 <= exc.status < 500
        return ModelReply(error=error_code(exc), is_billed=not is_refused)
    seconds = time.perf_counter() - started - (token.waited_seconds - waited)
    return ModelReply(first_message(answer), seconds, tokens_of(answer))


def first_message(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message of the first choice; empty if there is none."""
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, Mapping) else None
    return message if isinstance(message, Mapping) else {}


def tokens_of(answer: Mapping[str, Any]) -> dict[str, int]:
    """The tokens of an answer; empty if the host did not say."""
    usage = answer.get("usage")
    names = {"prompt": "prompt_tokens", "completion": "completion_tokens"}
    tokens = {name: usage.get(key) for name, key in names.items()} if isinstance(usage, Mapping) else {}
    known = {name: value for name, value in tokens.items() if type(value) is int and value >= 0}
    return known if len(known) == len(names) else {}


def error_code(error: FtpipeError) -> str:
    """Why there was no answer, as a short code."""
    code = error.body["error"]["code"] or error.status if isinstance(error, ApiError) else error.code
    return printable(str(code), MAX_ERROR_CHARACTERS)


def answer_digest(key: str, message: Mapping[str, Any]) -> str:
    """The digest that two answers share if they agree."""
    return digest(key, canonical_answer(message).encode("utf-8", "surrogatepass"))


def score(grader: Grader, request: Mapping[str, Any], message: Mapping[str, Any]) -> float:
    """A grader's score of an answer, from 0 to 1; templates know the chat as ``item``."""
    calls = message.get("tool_calls")
    tools = [call for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []
    value = GradingContext(request, answer_text(message), tools).score(grader)
    return min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0
