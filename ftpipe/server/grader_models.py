"""Let graders ask models: those that this server answers with itself, with the rights of the grader's owner.

A model at another host is never asked, because each answer would cost money and every step needs many. Nothing in a
grader, in data or in a request can name an address.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from ftpipe.canonical_json import canonical_json
from ftpipe.grading.score_model import ModelReply
from ftpipe.server.batches.answer_lines import Answer, answer_request
from ftpipe.server.cancellation import CancelToken
from ftpipe.server.protocol import ApiRequest, bad_request, printable
from ftpipe.server.routed_chats import RoutedChats

MAX_CONCURRENT_REQUESTS = 16
"""Requests of one grading that are answered at the same time."""


class GraderModels:
    """Answers the chats of graders.

    Args:
        chats: Answers chats.
        has_model: Whether an owner can use a model.
    """

    def __init__(self, chats: RoutedChats, has_model: Callable[[str, str], bool]) -> None:
        self._chats = chats
        self._has_model = has_model

    def require(self, owner: str, name: str, param: str) -> None:
        """Refuse a model that graders cannot ask.

        Raises:
            ApiError: 400 that says why.
        """
        if self._chats.is_remote(owner, name):
            raise bad_request(_remote(name), param, "unsupported_model")
        if not self._has_model(owner, name):
            message = f"The model '{printable(name)}' does not exist; a grader can ask the base models of this server "
            raise bad_request(f"{message}and your own fine-tuned models.", param, "grader_model_not_found")

    def ask(self, owner: str, bodies: Sequence[Mapping[str, Any]], token: CancelToken) -> list[ModelReply]:
        """The replies to chats, in their order; chats that are the same are answered once.

        Raises:
            RequestCancelledError: The token was cancelled.
        """
        different = {canonical_json(body): body for body in bodies}
        stop_event = threading.Event()  # ends the pauses before a chat is tried again
        token.on_cancel(stop_event.set)
        ask = partial(self._ask, owner, token, stop_event)
        with ThreadPoolExecutor(MAX_CONCURRENT_REQUESTS, thread_name_prefix="grader") as threads:
            replies = dict(zip(different, threads.map(ask, different.values()), strict=True))
        return [replies[canonical_json(body)] for body in bodies]

    def _ask(self, owner: str, token: CancelToken, stop_event: threading.Event, body: Mapping[str, Any]) -> ModelReply:
        token.raise_if_cancelled()
        name = str(body["model"])
        if self._chats.is_remote(owner, name):  # since the grader was checked
            return ModelReply(error=_remote(name))
        request = ApiRequest(owner, body=body, cancel_token=token, priority="batch")
        return _reply(answer_request(self._chats.complete, request, stop_event))


def _remote(name: str) -> str:
    return (
        f"'{printable(name)}' is answered by another host, which can cost money for each answer; "
        "a grader can ask only models of this server."
    )


def _reply(answer: Answer) -> ModelReply:
    """A response as what a grader reads; nothing in one of another program is trusted to have the right type."""
    error = answer.body.get("error")
    if isinstance(error, Mapping):
        return ModelReply(error=printable(str(error.get("message")), 500))
    choices = answer.body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(message, Mapping):
        return ModelReply(error="the answer has no message")
    texts = {name: str(message.get(name) or "") for name in ("content", "refusal")}
    return ModelReply(
        text=texts["content"],
        refusal=texts["refusal"],
        model=str(answer.body.get("model", "")),
        prompt_tokens=answer.input_tokens,
        completion_tokens=answer.output_tokens,
    )
