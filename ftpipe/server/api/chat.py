"""Chat completions: whole or streamed, from a base, a tuned model or a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ftpipe.errors import FtpipeError, UsageError
from ftpipe.inference.tool_call_parser import parse_tool_calls
from ftpipe.server.api.chat_schemas import ChatRequest, parse_chat, template_messages, template_tools
from ftpipe.server.api.response_format import grammar_source_param, response_grammar
from ftpipe.server.clock import now
from ftpipe.server.model_resolver import ModelResolver, ResolvedModel, model_not_found
from ftpipe.server.protocol import (
    ApiError,
    ApiRequest,
    ApiResponse,
    bad_request,
    enum_query_param,
    int_query_param,
    metadata_filter,
    new_id,
)
from ftpipe.server.storage import CompletionRow, Store, Transaction

if TYPE_CHECKING:
    from ftpipe.inference.engine import Delta, GenerationRequest, TokenLogprob

MAX_LIMIT = 100
SEEDS = 2**63


class GenerationBackend(Protocol):
    """Makes text; safe to call from several threads."""

    def generate(self, *, base: str, adapter: Path | None, request: GenerationRequest) -> Iterator[Delta]:
        """The answer in pieces; the last one has a finish reason and the token counts."""


@dataclass(slots=True)
class _ChoiceBuilder:
    """One of the ``n`` answers, put together."""

    text: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add_delta(self, delta: Delta) -> None:
        """Add a piece."""
        self.text += delta.text
        self.logprobs += [_logprob(token) for token in delta.logprobs]
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason
            self.prompt_tokens = delta.prompt_tokens
            self.completion_tokens = delta.completion_tokens


class ChatCompletionsApi:
    """The handlers of ``/chat/completions``.

    Args:
        store: The server's memory.
        models: Which models answer.
        open_engine: Gives the engine; called when it is first needed, because that loads torch.
    """

    def __init__(self, store: Store, models: ModelResolver, open_engine: Callable[[], GenerationBackend]) -> None:
        self._store = store
        self._models = models
        self._open_engine = open_engine

    def create(self, call: ApiRequest) -> ApiResponse:
        """Answer a conversation."""
        asked = parse_chat(call.body)
        messages = template_messages(asked.messages)
        with self._store.read() as tx:
            served = self._models.resolve(tx, call.owner, asked.model)
        if served is None:
            raise model_not_found(asked.model)
        head = {"id": new_id("chatcmpl-"), "created": now(), "model": asked.model}
        answers = [self._deltas(served, asked, messages, index) for index in range(asked.n or 1)]
        if asked.stream:
            return ApiResponse(events=_prefetch_first_chunks(self._stream(call.owner, asked, head, answers)))
        return ApiResponse(body=self._complete(call.owner, asked, head, answers))

    def _deltas(
        self, served: ResolvedModel, asked: ChatRequest, messages: list[dict[str, Any]], index: int
    ) -> Iterator[Delta]:
        """One answer in pieces; nothing is computed before the first is taken."""
        from ftpipe.inference.constrained_decoding import GrammarError
        from ftpipe.inference.engine import GenerationRequest
        from ftpipe.inference.sampling import LogitBiasError
        from ftpipe.modeling.chat_tokenizer import ChatTemplateError

        request = GenerationRequest(
            messages=messages,
            tools=template_tools(asked),
            max_tokens=asked.max_completion_tokens or asked.max_tokens,
            temperature=1.0 if asked.temperature is None else asked.temperature,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            stop=asked.stops,
            seed=None if asked.seed is None else (asked.seed + index) % SEEDS,
            frequency_penalty=asked.frequency_penalty or 0.0,
            presence_penalty=asked.presence_penalty or 0.0,
            logit_bias=asked.biases,
            form=response_grammar(asked),
            logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        )
        try:
            yield from self._open_engine().generate(base=served.base, adapter=served.adapter, request=request)
        except (GrammarError, LogitBiasError) as exc:
            param = "logit_bias" if isinstance(exc, LogitBiasError) else grammar_source_param(asked)
            raise bad_request(f"Invalid '{param}': {exc.message}.", param, exc.code) from exc
        except (UsageError, ChatTemplateError) as exc:
            raise bad_request(exc.message, "messages", exc.code) from exc
        except FtpipeError as exc:
            message = f"The model cannot answer: {exc.message}"
            raise ApiError(503, message, "model_unavailable", "model", "server_error") from exc

    def _complete(
        self, owner: str, asked: ChatRequest, head: Mapping[str, Any], answers: list[Iterator[Delta]]
    ) -> dict[str, Any]:
        choices = []
        for answer in answers:
            made = _ChoiceBuilder()
            for delta in answer:
                made.add_delta(delta)
            choices.append(made)
        body = {
            **head,
            "object": "chat.completion",
            "choices": [_choice_object(index, made, asked) for index, made in enumerate(choices)],
            "usage": _usage(choices),
        }
        self._store_completion(owner, asked, body)
        return body

    def _stream(
        self, owner: str, asked: ChatRequest, head: Mapping[str, Any], answers: list[Iterator[Delta]]
    ) -> Iterator[str]:
        choices: list[_ChoiceBuilder] = []
        for index, answer in enumerate(answers):
            made = _ChoiceBuilder()
            choices.append(made)
            yield _chunk(head, _piece(index, {"role": "assistant", "content": "", "refusal": None}))
            for delta in answer:
                made.add_delta(delta)
                if delta.text and not asked.tools:
                    yield _chunk(head, _piece(index, {"content": delta.text}, delta, asked))
            yield from _last_pieces(head, index, made, asked)
        if asked.stream_options is not None and asked.stream_options.include_usage:
            yield _chunk({**head, "usage": _usage(choices)})
        body = {**head, "object": "chat.completion", "usage": _usage(choices)}
        body["choices"] = [_choice_object(index, made, asked) for index, made in enumerate(choices)]
        self._store_completion(owner, asked, body)
        yield "data: [DONE]\n\n"

    def _store_completion(self, owner: str, asked: ChatRequest, body: dict[str, Any]) -> None:
        """Store an answer whose request asks for it."""
        if not asked.store:
            return
        metadata = asked.metadata or {}
        row = CompletionRow(body["id"], owner, asked.model, body["created"], metadata, {**body, "metadata": metadata})
        with self._store.write() as tx:
            tx.completions.add(row)

    def list(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One page of the answers that were asked to be stored."""
        metadata, without_metadata = metadata_filter(call)
        page = tx.completions.page_of(
            call.owner,
            model=call.query.get("model"),
            metadata=metadata,
            without_metadata=without_metadata,
            after=call.query.get("after"),
            limit=int_query_param(call, "limit", 20, maximum=MAX_LIMIT),
            oldest_first=enum_query_param(call, "order", ("asc", "desc")) == "asc",
        )
        return {
            "object": "list",
            "data": [row.body for row in page.rows],
            "first_id": page.rows[0].id if page.rows else "",
            "last_id": page.rows[-1].id if page.rows else "",
            "has_more": page.has_more,
        }


def _prefetch_first_chunks(events: Iterator[str]) -> Iterator[str]:
    """Compute the first two blocks at once, so that a model that cannot answer is an HTTP error and no torn stream."""
    first = list(islice(events, 2))

    def joined() -> Iterator[str]:
        with closing(events):  # type: ignore[type-var]  # a generator, which has close()
            yield from first
            yield from events

    return joined()


def _last_pieces(head: Mapping[str, Any], index: int, made: _ChoiceBuilder, asked: ChatRequest) -> Iterator[str]:
    """With tools the answer is held back until it is known whether it is a call."""
    message, reason = _message(made, asked)
    calls = message.get("tool_calls")
    if calls:
        numbered = [{"index": place, **call} for place, call in enumerate(calls)]
        yield _chunk(head, _piece(index, {"tool_calls": numbered}))
    elif asked.tools and made.text:
        yield _chunk(head, _piece(index, {"content": made.text}))
    yield _chunk(head, {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason})


def _piece(
    index: int, delta: dict[str, Any], source: Delta | None = None, asked: ChatRequest | None = None
) -> dict[str, Any]:
    logprobs = None
    if source is not None and asked is not None and asked.logprobs:
        logprobs = {"content": [_logprob(token) for token in source.logprobs], "refusal": None}
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}


def _chunk(head: Mapping[str, Any], *choices: dict[str, Any]) -> str:
    body = {**head, "object": "chat.completion.chunk", "choices": list(choices)}
    return f"data: {json.dumps(body, ensure_ascii=False, allow_nan=False)}\n\n"


def _message(made: _ChoiceBuilder, asked: ChatRequest) -> tuple[dict[str, Any], str]:
    """The finished message and its finish reason."""
    found = parse_tool_calls(made.text) if asked.tools and asked.tool_choice != "none" else None
    if found is None:
        return {"role": "assistant", "content": made.text, "refusal": None}, made.finish_reason
    text, parsed = found
    calls = [{"id": new_id("call_"), **call} for call in parsed]
    return {"role": "assistant", "content": text or None, "refusal": None, "tool_calls": calls}, "tool_calls"


def _choice_object(index: int, made: _ChoiceBuilder, asked: ChatRequest) -> dict[str, Any]:
    message, reason = _message(made, asked)
    logprobs = {"content": made.logprobs, "refusal": None} if asked.logprobs else None
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def _usage(choices: list[_ChoiceBuilder]) -> dict[str, Any]:
    prompt = choices[0].prompt_tokens if choices else 0
    completion = sum(made.completion_tokens for made in choices)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    return {**_one_logprob(token), "top_logprobs": [_one_logprob(other) for other in token.top]}


def _one_logprob(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": token.bytes}
