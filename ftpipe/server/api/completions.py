"""``/completions``: continue texts, whole or streamed, also with the log-probabilities of the prompt."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ftpipe.errors import UsageError
from ftpipe.inference.detokenizer import Delta, TokenLogprob
from ftpipe.inference.request import GenerationRequest
from ftpipe.modeling.chat_tokenizer import ChatTemplateError
from ftpipe.server.api.answer_streams import CheckCancelled, concurrent_items, with_first
from ftpipe.server.api.completion_schemas import CompletionRequest, Prompt, parse_completion
from ftpipe.server.api.text_generation import SEED_COUNT, TextGenerator
from ftpipe.server.clock import now
from ftpipe.server.model_resolver import ResolvedModel
from ftpipe.server.protocol import DONE_EVENT, ApiRequest, Stream, bad_request, data_event, model_unavailable, new_id
from ftpipe.server.routes import ModelRoutes, follow_route


@dataclass(slots=True)
class _Choice:
    """One answer to one prompt, as far as it has been generated."""

    index: int
    prompt_index: int
    prompt: Prompt
    completion: CompletionRequest
    text: str = ""
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    logprobs: dict[str, list[Any]] = field(default_factory=dict)
    sampled_logprobs: list[float] = field(default_factory=list)
    _has_echoed: bool = False
    _characters: int = 0
    """Of the tokens that have log-probabilities."""
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )

    def add(self, delta: Delta) -> dict[str, Any]:
        """Append a piece, and return it as the choice of a chunk."""
        text, tokens = delta.text, delta.logprobs
        is_empty = self.completion.token_limit == 0
        if is_empty:  # one token was generated after the prompt, because there is always one
            text, tokens = "", ()
        if delta.finish_reason is not None:
            self.finish_reason = "length" if is_empty else delta.finish_reason
            self.prompt_tokens = delta.prompt_tokens
            self.completion_tokens = 0 if is_empty else delta.completion_tokens
        if self.completion.echo and not self._has_echoed:
            self._has_echoed = True
            text = _prompt_text(self.prompt, delta.prompt_logprobs) + text
        self.text += text
        self.sampled_logprobs += [token.logprob for token in tokens]
        logprobs = self._add_logprobs(delta.prompt_logprobs, tokens)
        return {"text": text, "index": self.index, "logprobs": logprobs, "finish_reason": None}

    def serialize(self) -> dict[str, Any]:
        """The finished choice as the API returns it."""
        logprobs = None if self.completion.logprobs is None else self.logprobs
        return {"text": self.text, "index": self.index, "logprobs": logprobs, "finish_reason": self.finish_reason}

    @property
    def mean_logprob(self) -> float:
        """Of its tokens; the best of several answers has the highest."""
        return sum(self.sampled_logprobs) / max(1, len(self.sampled_logprobs))

    def _add_logprobs(
        self, prompt: tuple[TokenLogprob, ...], answer: tuple[TokenLogprob, ...]
    ) -> dict[str, list[Any]] | None:
        """Append tokens to the four lists, and return their part of them; the first token of a prompt has ``null``."""
        if self.completion.logprobs is None or not (prompt or answer):
            return None
        added: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for position, token in enumerate((*prompt, *answer)):
            is_first = bool(prompt) and position == 0
            added["tokens"].append(token.token)
            added["token_logprobs"].append(None if is_first else token.logprob)
            added["top_logprobs"].append(None if is_first else _top_logprobs(token))
            added["text_offset"].append(self._characters)
            self._characters += len(self._decoder.decode(bytes(token.bytes)))  # a token can be a part of one
        for name, values in added.items():
            self.logprobs.setdefault(name, []).extend(values)
        return added


def _top_logprobs(token: TokenLogprob) -> dict[str, float]:
    """The alternatives and the token itself; of tokens with the same text the most probable one."""
    logprobs: dict[str, float] = {}
    for each in (*token.top, token):
        logprobs.setdefault(each.token, each.logprob)
    return logprobs


def _prompt_text(prompt: Prompt, tokens: tuple[TokenLogprob, ...]) -> str:
    if isinstance(prompt, str):
        return prompt
    return bytes(byte for token in tokens for byte in token.bytes).decode(errors="replace")


class CompletionsApi:
    """The handlers of ``/completions``.

    Args:
        routes: Names that are served by models of other names.
        generator: Generates the texts.
    """

    def __init__(self, routes: ModelRoutes, generator: TextGenerator) -> None:
        self._routes = routes
        self._generator = generator

    def load_model(self, request: ApiRequest) -> Future[Any]:
        """Load the base model of a request, so that ``create`` does not wait for it in the place of other requests."""
        parse_completion(request.body)
        request = follow_route(self._routes, request)
        return self._generator.load_model(request, request.body["model"])

    def create(self, request: ApiRequest) -> Mapping[str, Any] | Stream:
        """Continue one text or several."""
        request = follow_route(self._routes, request)
        completion, prompts = parse_completion(request.body)
        model = self._generator.resolve(request, completion.model)
        name = request.alias or model.name(completion.model)
        head = {"id": new_id("cmpl-"), "object": "text_completion", "created": now(), "model": name}
        choices = [
            _Choice(prompt_index * completion.candidates + number, prompt_index, prompt, completion)
            for prompt_index, prompt in enumerate(prompts)
            for number in range(completion.candidates)
        ]
        if completion.stream:
            return Stream(with_first(self._stream(request, model, head, choices)))
        for choice, delta in self._deltas(request, model, choices):
            choice.add(delta)
        returned = _best(choices, completion)
        return {**head, "choices": [choice.serialize() for choice in returned], "usage": _usage(choices)}

    def _deltas(
        self, request: ApiRequest, model: ResolvedModel, choices: list[_Choice]
    ) -> Iterator[tuple[_Choice, Delta]]:
        """The pieces of all answers as they come; an error of one ends all."""
        start = [partial(self._generate, request, model, choice) for choice in choices]
        items = concurrent_items(start, request.cancel_token.raise_if_cancelled)
        with closing(items):  # type: ignore[type-var]  # a generator, which has close()
            for index, delta in items:
                yield choices[index], delta

    def _generate(
        self, request: ApiRequest, model: ResolvedModel, choice: _Choice, check_cancelled: CheckCancelled
    ) -> Iterator[Delta]:
        """One answer in pieces; nothing is computed before the first one is taken."""
        try:
            yield from self._generator.generate(request, model, _generation(request, choice), check_cancelled)
        except UsageError as exc:
            is_list = isinstance(request.body["prompt"], list) and not isinstance(request.body["prompt"][0], int)
            param = f"prompt[{choice.prompt_index}]" if is_list else "prompt"
            raise bad_request(f"Invalid '{param}': {exc.message}.", param, exc.code) from exc
        except ChatTemplateError as exc:  # the base has none, and is not loaded without
            raise model_unavailable(exc) from exc

    def _stream(
        self, request: ApiRequest, model: ResolvedModel, head: Mapping[str, Any], choices: list[_Choice]
    ) -> Iterator[str]:
        options = choices[0].completion.stream_options
        has_usage = options is not None and bool(options.include_usage)
        rest = {"usage": None} if has_usage else {}
        deltas = self._deltas(request, model, choices)
        with closing(deltas):  # type: ignore[type-var]  # a generator, which has close()
            for choice, delta in deltas:
                piece = choice.add(delta)
                if piece["text"] or piece["logprobs"]:
                    yield data_event({**head, "choices": [piece], **rest})
                if delta.finish_reason is not None:
                    end = {"text": "", "index": choice.index, "logprobs": None, "finish_reason": choice.finish_reason}
                    yield data_event({**head, "choices": [end], **rest})
        if has_usage:
            yield data_event({**head, "choices": [], "usage": _usage(choices)})
        yield DONE_EVENT


def _generation(request: ApiRequest, choice: _Choice) -> GenerationRequest:
    completion = choice.completion
    number = choice.index % completion.candidates
    needs_logprobs = completion.candidates > (completion.n or 1)
    needs_prompt = completion.echo and (completion.logprobs is not None or not isinstance(choice.prompt, str))
    return GenerationRequest(
        prompt=choice.prompt,
        owner=request.owner,
        priority=request.priority,
        max_tokens=max(1, completion.token_limit),
        temperature=1.0 if completion.temperature is None else completion.temperature,
        top_p=1.0 if completion.top_p is None else completion.top_p,
        top_k=max(0, completion.top_k or 0),
        min_p=completion.min_p or 0.0,
        repetition_penalty=completion.repetition_penalty or 1.0,
        stop=completion.stop_texts,
        seed=None if completion.seed is None else (completion.seed + number) % SEED_COUNT,
        frequency_penalty=completion.frequency_penalty or 0.0,
        presence_penalty=completion.presence_penalty or 0.0,
        logit_bias=completion.bias_by_token,
        logprobs=0 if completion.logprobs is None and needs_logprobs else completion.logprobs,
        prompt_logprobs=(completion.logprobs or 0) if needs_prompt else None,
    )


def _best(choices: list[_Choice], completion: CompletionRequest) -> list[_Choice]:
    """The ``n`` best answers to each prompt, numbered anew."""
    returned = []
    for start in range(0, len(choices), completion.candidates):
        candidates = choices[start : start + completion.candidates]
        if completion.candidates > (completion.n or 1):
            candidates.sort(key=lambda choice: choice.mean_logprob, reverse=True)
        returned += candidates[: completion.n or 1]
    for index, choice in enumerate(returned):
        choice.index = index
    return returned


def _usage(choices: list[_Choice]) -> dict[str, Any]:
    """The tokens of each prompt once, and of all answers, also of those that are not returned."""
    prompt = sum({choice.prompt_index: choice.prompt_tokens for choice in choices}.values())
    completion = sum(choice.completion_tokens for choice in choices)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
