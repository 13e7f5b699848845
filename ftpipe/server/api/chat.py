"""``/chat/completions``: answer with a base model, a tuned model or a checkpoint, in one piece or streamed."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from ftpipe.errors import FtpipeError, UsageError
from ftpipe.inference.constrained_decoding import GrammarError
from ftpipe.inference.detokenizer import Delta, TokenLogprob
from ftpipe.inference.request import GenerationRequest, LogitBiasError
from ftpipe.inference.tool_call_parser import parse_tool_calls
from ftpipe.modeling.chat_tokenizer import ChatTemplateError
from ftpipe.server.api.chat_schemas import ChatRequest, parse_chat, template_messages, template_tools
from ftpipe.server.api.response_format import grammar_source_param, response_grammar
from ftpipe.server.api.stored_completions import add_completion
from ftpipe.server.cancellation import RequestCancelledError
from ftpipe.server.clock import now
from ftpipe.server.model_resolver import ModelResolver, ResolvedModel
from ftpipe.server.protocol import (
    ApiRequest,
    Stream,
    bad_request,
    model_not_found,
    model_unavailable,
    new_id,
)
from ftpipe.server.shadow.low_priority import CallerCount
from ftpipe.server.storage import Store

SEED_COUNT = 2**63


OnAnswer = Callable[[ApiRequest, Mapping[str, Any], float], None]
"""Called with a caller's request, the whole completion and the seconds for which it was computed."""


class GenerationBackend(Protocol):
    """What generates text; can be called from several threads."""

    def load(self, base: str) -> Future[Any]:
        """Load a base model in the background; the future is done at once if it is in memory."""

    def generate(
        self, *, base: str, adapter: Path | None, request: GenerationRequest, check_cancelled: Callable[[], None]
    ) -> Iterator[Delta]:
        """The answer in pieces; the last one has a finish reason and the token counts.

        ``check_cancelled`` is called before each token, and raises an error to end the work.
        """

    def close(self) -> None:
        """Let go of the models; what is being generated fails."""


@dataclass(slots=True)
class _Choice:
    """One of the ``n`` answers, as far as it has been generated."""

    index: int
    chat: ChatRequest
    text: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    """How long it was computed, without the time in which pieces were sent."""
    _message: tuple[dict[str, Any], str] | None = None

    def collect(self, pieces: Iterator[Delta]) -> Iterator[Delta]:
        """The pieces, each of which is appended once it is computed."""
        while True:
            started = time.perf_counter()
            piece = next(pieces, None)
            self.seconds += time.perf_counter() - started
            if piece is None:
                return
            self.add(piece)
            yield piece

    def add(self, delta: Delta) -> None:
        """Append a piece."""
        self.text += delta.text
        self.logprobs += [_serialize_logprob(token) for token in delta.logprobs]
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason
            self.prompt_tokens = delta.prompt_tokens
            self.completion_tokens = delta.completion_tokens

    def message(self) -> tuple[dict[str, Any], str]:
        """The finished message and its finish reason; always the same, as a tool call has a random id."""
        if self._message is None:
            self._message = self._parse_message()
        return self._message

    def _parse_message(self) -> tuple[dict[str, Any], str]:
        parsed = parse_tool_calls(self.text) if self.chat.tools and self.chat.tool_choice != "none" else None
        if parsed is None:
            return {"role": "assistant", "content": self.text, "refusal": None}, self.finish_reason
        text, calls = parsed
        calls = [{"id": new_id("call_"), **call} for call in calls]
        return {"role": "assistant", "content": text or None, "refusal": None, "tool_calls": calls}, "tool_calls"

    def serialize(self) -> dict[str, Any]:
        """The finished choice as the API returns it."""
        message, reason = self.message()
        logprobs = {"content": self.logprobs, "refusal": None} if self.chat.logprobs else None
        return {"index": self.index, "message": message, "logprobs": logprobs, "finish_reason": reason}


class ChatCompletionsApi:
    """The handlers of ``/chat/completions``.

    Args:
        store: The server's database.
        models: Finds what serves a name.
        engine: Generates the answers.
        callers: Counts the answers that callers wait for.

    Attributes:
        on_answer: Called with each whole completion that a caller gets.
    """

    def __init__(
        self, store: Store, models: ModelResolver, engine: GenerationBackend, callers: CallerCount | None = None
    ) -> None:
        self._store = store
        self._models = models
        self._engine = engine
        self._callers = callers or CallerCount()
        self.on_answer: OnAnswer = _ignore_answer

    def load_model(self, request: ApiRequest) -> Future[Any]:
        """Load the base model of a request, so that ``create`` does not wait for it in the place of other requests."""
        chat = parse_chat(request.body)
        return self._engine.load(self._resolve(request, chat.model).base)

    def create(self, request: ApiRequest) -> Mapping[str, Any] | Stream:
        """Answer a conversation."""
        chat = parse_chat(request.body)
        return Stream(self.stream(request)) if chat.stream else self._complete(request, chat)

    def stream(self, request: ApiRequest) -> Iterator[str]:
        """Answer a conversation in pieces, of which the first ones are computed at once."""
        chat = parse_chat(request.body)
        head, answers = self._start(request, chat)
        return _prefetch_first_chunks(self._stream(request, chat, head, answers))

    def complete(self, request: ApiRequest) -> Mapping[str, Any]:
        """Answer a conversation in one piece."""
        return self._complete(request, parse_chat(request.body))

    def count_tokens(self, request: ApiRequest) -> int:
        """Tokens of a conversation and its tools in the model's template; nothing is generated."""
        chat = parse_chat(request.body).model_copy(update={"max_tokens": 0, "max_completion_tokens": 0})
        _, answers = self._start(request, chat)
        return max(delta.prompt_tokens for delta in answers[0])

    def _complete(self, request: ApiRequest, chat: ChatRequest) -> Mapping[str, Any]:
        head, answers = self._start(request, chat)
        choices = [_Choice(index, chat) for index in range(len(answers))]
        for choice, answer in zip(choices, answers, strict=True):
            deque(choice.collect(answer), maxlen=0)
        return self._finish(request, chat, head, choices)

    def _start(self, request: ApiRequest, chat: ChatRequest) -> tuple[Mapping[str, Any], list[Iterator[Delta]]]:
        """What all parts of the response begin with, and the answers, of which nothing is computed yet."""
        messages = template_messages(chat.messages)
        model = self._resolve(request, chat.model)
        head = {"id": new_id("chatcmpl-"), "created": now(), "model": request.alias or model.name(chat.model)}
        grammar = response_grammar(chat)
        answers = [self._generate(request, model, chat, messages, grammar, index) for index in range(chat.n or 1)]
        return head, answers

    def _resolve(self, request: ApiRequest, name: str) -> ResolvedModel:
        """What serves a name; whoever sets a route lets every owner of a key chat with its model."""
        with self._store.read() as tx:
            model = self._models.resolve(tx, None if request.alias else request.owner, name)
        if model is None:
            raise model_not_found(request.alias or name)
        return model

    def _generate(
        self,
        request: ApiRequest,
        model: ResolvedModel,
        chat: ChatRequest,
        messages: list[dict[str, Any]],
        grammar: str | None,
        index: int,
    ) -> Iterator[Delta]:
        """One answer in pieces; nothing is computed before the first one is taken."""
        check_cancelled = request.cancel_token.raise_if_cancelled
        generation = GenerationRequest(
            messages=messages,
            owner="" if request.is_mirrored else request.owner,  # a mirrored chat takes no turn of its owner
            priority=request.priority,
            tools=template_tools(chat),
            max_tokens=chat.max_completion_tokens or chat.max_tokens,
            temperature=1.0 if chat.temperature is None else chat.temperature,
            top_p=1.0 if chat.top_p is None else chat.top_p,
            stop=chat.stop_texts,
            seed=None if chat.seed is None else (chat.seed + index) % SEED_COUNT,
            frequency_penalty=chat.frequency_penalty or 0.0,
            presence_penalty=chat.presence_penalty or 0.0,
            logit_bias=chat.bias_by_token,
            grammar=grammar,
            logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
            **chat.extended_sampling,
        )
        try:
            check_cancelled()
            with self._callers.counted() if request.priority == "interactive" else nullcontext():
                yield from self._engine.generate(
                    base=model.base, adapter=model.adapter, request=generation, check_cancelled=check_cancelled
                )
        except RequestCancelledError:
            raise
        except (GrammarError, LogitBiasError) as exc:
            param = "logit_bias" if isinstance(exc, LogitBiasError) else grammar_source_param(chat)
            raise bad_request(f"Invalid '{param}': {exc.message}.", param, exc.code) from exc
        except (UsageError, ChatTemplateError) as exc:
            raise bad_request(exc.message, "messages", exc.code) from exc
        except FtpipeError as exc:
            raise model_unavailable(exc) from exc

    def _stream(
        self, request: ApiRequest, chat: ChatRequest, head: Mapping[str, Any], answers: list[Iterator[Delta]]
    ) -> Iterator[str]:
        choices: list[_Choice] = []
        for index, answer in enumerate(answers):
            choice = _Choice(index, chat)
            choices.append(choice)
            yield _chunk(head, _serialize_delta(choice, {"role": "assistant", "content": "", "refusal": None}))
            for delta in choice.collect(answer):
                if delta.text and not chat.tools:
                    yield _chunk(head, _serialize_delta(choice, {"content": delta.text}, delta.logprobs))
            yield from _last_chunks(head, choice)
        if chat.stream_options is not None and chat.stream_options.include_usage:
            yield _chunk({**head, "usage": _usage(choices)})
        self._finish(request, chat, head, choices)
        yield "data: [DONE]\n\n"

    def _finish(
        self, request: ApiRequest, chat: ChatRequest, head: Mapping[str, Any], choices: list[_Choice]
    ) -> dict[str, Any]:
        """The whole completion, which is stored if the request says so."""
        serialized = [choice.serialize() for choice in choices]
        body = {**head, "object": "chat.completion", "choices": serialized, "usage": _usage(choices)}
        if chat.store:
            with self._store.write() as tx:
                add_completion(tx, request, body, chat.metadata or {})
        if request.priority == "interactive":
            self.on_answer(request, body, choices[0].seconds)
        return body


def _ignore_answer(_request: ApiRequest, _answer: Mapping[str, Any], _seconds: float) -> None:
    """Nobody looks at the answers."""


def _prefetch_first_chunks(chunks: Iterator[str]) -> Iterator[str]:
    """Compute the first two chunks at once, so that an error of the engine is an HTTP error, not a broken stream."""
    first = list(islice(chunks, 2))

    def joined() -> Iterator[str]:
        with closing(chunks):  # type: ignore[type-var]  # a generator, which has close()
            yield from first
            yield from chunks

    return joined()


def _last_chunks(head: Mapping[str, Any], choice: _Choice) -> Iterator[str]:
    """The end of an answer; with tools also its text, which is held back until it is known whether it is a call."""
    message, reason = choice.message()
    calls = message.get("tool_calls")
    if calls:
        numbered = [{"index": index, **call} for index, call in enumerate(calls)]
        yield _chunk(head, _serialize_delta(choice, {"tool_calls": numbered}))
    elif choice.chat.tools and choice.text:
        yield _chunk(head, _serialize_delta(choice, {"content": choice.text}))
    yield _chunk(head, {"index": choice.index, "delta": {}, "logprobs": None, "finish_reason": reason})


def _serialize_delta(
    choice: _Choice, delta: dict[str, Any], tokens: tuple[TokenLogprob, ...] | None = None
) -> dict[str, Any]:
    logprobs = None
    if tokens is not None and choice.chat.logprobs:
        logprobs = {"content": [_serialize_logprob(token) for token in tokens], "refusal": None}
    return {"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": None}


def _chunk(head: Mapping[str, Any], *choices: dict[str, Any]) -> str:
    body = {**head, "object": "chat.completion.chunk", "choices": list(choices)}
    return f"data: {json.dumps(body, ensure_ascii=False, allow_nan=False)}\n\n"


def _usage(choices: list[_Choice]) -> dict[str, Any]:
    prompt = choices[0].prompt_tokens if choices else 0
    completion = sum(choice.completion_tokens for choice in choices)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _serialize_logprob(token: TokenLogprob) -> dict[str, Any]:
    return {**_serialize_token(token), "top_logprobs": [_serialize_token(other) for other in token.top]}


def _serialize_token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": token.bytes}
