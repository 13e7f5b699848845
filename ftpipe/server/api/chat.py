"""``/chat/completions``: answer with a base model, a tuned model or a checkpoint, in one piece or streamed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from ftpipe.server.api.answer_events import AnswerEnd, AnswerEvent, TextDelta
from ftpipe.server.api.answer_streams import with_first
from ftpipe.server.api.answers import AnswerGenerator, Answers
from ftpipe.server.api.chat_objects import (
    DeltaSerializer,
    finish_reason,
    serialize_choice,
    serialize_logprobs,
    serialize_usage,
)
from ftpipe.server.api.chat_schemas import ChatRequest, parse_chat
from ftpipe.server.api.stored_completions import add_completion
from ftpipe.server.clock import now
from ftpipe.server.protocol import DONE_EVENT, ApiRequest, Stream, data_event, new_id
from ftpipe.server.storage import Store

OnAnswer = Callable[[ApiRequest, Mapping[str, Any], float], None]
"""Called with a caller's request, the whole completion and the seconds for which it was computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningChat:
    """A chat that is being answered.

    Attributes:
        request: The caller's.
        chat: Its body.
        answers: Its answers, whose events are serialised.
        id: The completion's id.
        created: When it was created, in UTC Unix seconds.
    """

    request: ApiRequest
    chat: ChatRequest
    answers: Answers
    id: str = field(default_factory=lambda: new_id("chatcmpl-"))
    created: int = field(default_factory=now)

    @property
    def head(self) -> dict[str, Any]:
        """What all parts of the completion begin with."""
        return {"id": self.id, "created": self.created, "model": self.answers.model}

    def serialize(self) -> dict[str, Any]:
        """The whole completion."""
        is_legacy = self.answers.tools.is_legacy
        choices = [
            serialize_choice(index, answer, has_logprobs=bool(self.chat.logprobs), is_legacy=is_legacy)
            for index, answer in enumerate(self.answers.choices)
        ]
        usage = serialize_usage(self.answers.choices)
        return {**self.head, "object": "chat.completion", "choices": choices, "usage": usage}

    def chunks(self) -> Iterator[str]:
        """The chunks of the stream, all but the last one."""
        has_usage = self.chat.stream_options is not None and bool(self.chat.stream_options.include_usage)
        head = {**self.head, "object": "chat.completion.chunk"}
        rest = {"usage": None} if has_usage else {}
        deltas: dict[int, DeltaSerializer] = {}
        with closing(self.answers.events()) as events:  # type: ignore[type-var]  # a generator, which has close()
            for index, event in events:
                if index not in deltas:
                    deltas[index] = DeltaSerializer(is_legacy=self.answers.tools.is_legacy)
                    content = "" if isinstance(event, TextDelta | AnswerEnd) else None
                    first = {"role": "assistant", "content": content, "refusal": None}
                    yield data_event({**head, "choices": [_choice(index, first)], **rest})
                for choice in self._event_choices(index, event, deltas[index].serialize(event)):
                    yield data_event({**head, "choices": [choice], **rest})
        if has_usage:
            yield data_event({**head, "choices": [], "usage": serialize_usage(self.answers.choices)})

    def _event_choices(self, index: int, event: AnswerEvent, delta: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """An event as choices of chunks; a finish reason comes alone."""
        logprobs = serialize_logprobs(event.logprobs) if event.logprobs and self.chat.logprobs else None
        if delta or logprobs:
            yield _choice(index, delta, logprobs)
        if isinstance(event, AnswerEnd):
            yield _choice(index, {}, reason=finish_reason(event, is_legacy=self.answers.tools.is_legacy))


class ChatCompletionsApi:
    """The handlers of ``/chat/completions``.

    Args:
        store: The server's database.
        answers: Generates the answers.

    Attributes:
        on_answer: Called with each whole completion that a caller gets.
    """

    def __init__(self, store: Store, answers: AnswerGenerator) -> None:
        self._store = store
        self._answers = answers
        self.on_answer: OnAnswer = _ignore_answer

    def load_model(self, request: ApiRequest) -> Future[Any]:
        """Load the base model of a request, so that ``create`` does not wait for it in the place of other requests."""
        return self._answers.load_model(request, parse_chat(request.body).model)

    def create(self, request: ApiRequest) -> Mapping[str, Any] | Stream:
        """Answer a conversation."""
        running = self.start(request)
        if not running.chat.stream:
            return self._complete(running)
        return Stream(with_first(self._stream(running)))

    def complete(self, request: ApiRequest) -> Mapping[str, Any]:
        """Answer a conversation in one piece."""
        return self._complete(self.start(request))

    def start(self, request: ApiRequest) -> RunningChat:
        """A chat whose events are taken by the caller, who calls ``finish`` after the last one."""
        chat = parse_chat(request.body)
        return RunningChat(request=request, chat=chat, answers=self._answers.start(request, chat))

    def finish(self, running: RunningChat) -> dict[str, Any]:
        """The whole completion, which is stored if the request says so."""
        request, chat = running.request, running.chat
        body = running.serialize()
        if chat.store:
            with self._store.write() as tx:
                add_completion(tx, request, body, chat.metadata or {})
        if request.priority == "interactive":
            self.on_answer(request, body, running.answers.seconds)
        return body

    def count_tokens(self, request: ApiRequest) -> int:
        """Tokens of a conversation and its tools in the model's template; nothing is generated."""
        return self._answers.count_tokens(request, parse_chat(request.body))

    def _complete(self, running: RunningChat) -> Mapping[str, Any]:
        deque(running.answers.events(), maxlen=0)
        return self.finish(running)

    def _stream(self, running: RunningChat) -> Iterator[str]:
        yield from running.chunks()
        self.finish(running)
        yield DONE_EVENT


def _ignore_answer(_request: ApiRequest, _answer: Mapping[str, Any], _seconds: float) -> None:
    """Nobody looks at the answers."""


def _choice(
    index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, reason: str | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
