"""Answer conversations with the server's engine: what every API that answers them is built on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from ftpipe.errors import UsageError
from ftpipe.inference.constrained_decoding import GrammarError
from ftpipe.inference.detokenizer import Delta
from ftpipe.inference.request import GenerationRequest
from ftpipe.modeling.chat_tokenizer import ChatTemplateError
from ftpipe.server.api.answer_events import Answer, AnswerEvent, answer_events
from ftpipe.server.api.answer_streams import CheckCancelled, StartAnswer, concurrent_items
from ftpipe.server.api.chat_schemas import ChatRequest, template_messages
from ftpipe.server.api.chat_tools import ChatTools, parse_chat_tools
from ftpipe.server.api.response_format import grammar_source_param, response_grammar
from ftpipe.server.api.text_generation import SEED_COUNT, TextGenerator
from ftpipe.server.model_resolver import ResolvedModel
from ftpipe.server.protocol import ApiRequest, bad_request


class Answers:
    """The answers to one request; nothing is computed before the first event is taken.

    Args:
        model: The name of the model, as the answers give it.
        tools: What they can call.
        start: Starts each of the answers.
        check_cancelled: Called before each token.

    Attributes:
        choices: The answers as far as their events were taken.
        seconds: How long they were computed, without the time in which events were sent.
    """

    def __init__(
        self,
        model: str,
        tools: ChatTools,
        start: Sequence[StartAnswer[AnswerEvent]],
        check_cancelled: CheckCancelled,
    ) -> None:
        self.model = model
        self.tools = tools
        self.choices = [Answer() for _ in start]
        self.seconds = 0.0
        self._start = start
        self._check_cancelled = check_cancelled

    def events(self) -> Iterator[tuple[int, AnswerEvent]]:
        """The events of all answers as they come, with the number of their answer; closing it ends the answers."""
        items = concurrent_items(self._start, self._check_cancelled)
        with closing(items):  # type: ignore[type-var]  # a generator, which has close()
            while True:
                started = time.perf_counter()
                item = next(items, None)
                self.seconds += time.perf_counter() - started
                if item is None:
                    return
                index, event = item
                self.choices[index].add(event)
                yield item


@dataclass(frozen=True, slots=True, kw_only=True)
class _Conversation:
    """A chat that can be answered."""

    request: ApiRequest
    chat: ChatRequest
    model: ResolvedModel
    messages: list[dict[str, Any]]
    tools: ChatTools
    grammar: str | None

    def generation_request(self, index: int) -> GenerationRequest:
        """What the engine gets for one of the answers."""
        chat = self.chat
        return GenerationRequest(
            messages=self.messages,
            owner="" if self.request.is_mirrored else self.request.owner,  # a mirrored chat takes no turn of its owner
            priority="batch" if chat.service_tier == "flex" else self.request.priority,
            tools=self.tools.template_tools(),
            max_tokens=chat.max_completion_tokens or chat.max_tokens,
            temperature=1.0 if chat.temperature is None else chat.temperature,
            top_p=1.0 if chat.top_p is None else chat.top_p,
            stop=chat.stop_texts,
            seed=None if chat.seed is None else (chat.seed + index) % SEED_COUNT,
            frequency_penalty=chat.frequency_penalty or 0.0,
            presence_penalty=chat.presence_penalty or 0.0,
            logit_bias=chat.bias_by_token,
            grammar=self.grammar,
            logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
            **chat.extended_sampling,
        )


class AnswerGenerator:
    """Answers chats.

    Args:
        generator: Generates the texts.
    """

    def __init__(self, generator: TextGenerator) -> None:
        self._generator = generator

    def load_model(self, request: ApiRequest, name: str) -> Future[Any]:
        """Load the base model of a name, so that it is not waited for in the place of other requests."""
        return self._generator.load_model(request, name)

    def start(self, request: ApiRequest, chat: ChatRequest) -> Answers:
        """The ``n`` answers to a conversation.

        Raises:
            ApiError: The model does not exist, or the request contradicts itself.
        """
        conversation = self._conversation(request, chat)
        name = request.alias or conversation.model.name(chat.model)
        start = [partial(self._events, conversation, index) for index in range(chat.n or 1)]
        return Answers(name, conversation.tools, start, request.cancel_token.raise_if_cancelled)

    def count_tokens(self, request: ApiRequest, chat: ChatRequest) -> int:
        """Tokens of a conversation and its tools in the model's template; nothing is generated."""
        chat = chat.model_copy(update={"max_tokens": 0, "max_completion_tokens": 0})
        conversation = self._conversation(request, chat)
        deltas = self._deltas(conversation, 0, request.cancel_token.raise_if_cancelled)
        return max(delta.prompt_tokens for delta in deltas)

    def _conversation(self, request: ApiRequest, chat: ChatRequest) -> _Conversation:
        messages = template_messages(chat.messages)
        tools = parse_chat_tools(chat)
        return _Conversation(
            request=request,
            chat=chat,
            model=self._generator.resolve(request, chat.model),
            messages=messages,
            tools=tools,
            grammar=response_grammar(chat, tools),
        )

    def _events(
        self, conversation: _Conversation, index: int, check_cancelled: CheckCancelled
    ) -> Iterator[AnswerEvent]:
        """The events of one answer."""
        deltas = self._deltas(conversation, index, check_cancelled)
        with closing(deltas):  # type: ignore[type-var]  # a generator, which has close()
            yield from answer_events(deltas, conversation.tools)

    def _deltas(self, conversation: _Conversation, index: int, check_cancelled: CheckCancelled) -> Iterator[Delta]:
        """One answer in pieces; nothing is computed before the first one is taken."""
        generation = conversation.generation_request(index)
        try:
            yield from self._generator.generate(conversation.request, conversation.model, generation, check_cancelled)
        except GrammarError as exc:
            param = grammar_source_param(conversation.chat, conversation.tools)
            raise bad_request(f"Invalid '{param}': {exc.message}.", param, exc.code) from exc
        except (UsageError, ChatTemplateError) as exc:
            raise bad_request(exc.message, "messages", exc.code) from exc
