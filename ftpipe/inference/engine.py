"""Answer conversations with a base model and any of its adapters, token by token.

One loaded base serves all of its adapters. Requests run in threads and take turns token by token; what a request
needs (its cache, its random numbers) is its own.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.errors import MissingExtraError, UsageError
from ftpipe.inference.constrained_decoding import GrammarConstraint, Vocabulary
from ftpipe.inference.detokenizer import Delta, IncrementalDetokenizer, TokenLogprob
from ftpipe.inference.sampling import Sampler, SamplingParams
from ftpipe.modeling.base_models import StatusCallback, resolve_base
from ftpipe.modeling.chat_tokenizer import ChatTokenizer
from ftpipe.modeling.device import select_device
from ftpipe.modeling.loading import cache_argument, load_base, load_tokenizer
from ftpipe.modeling.types import Cache, CausalModel, Tokenizer

if TYPE_CHECKING:
    import torch

__all__ = ["ContextLengthError", "Delta", "Engine", "GenerationRequest", "TokenLogprob"]

DEFAULT_MAX_TOKENS = 1024
"""Tokens of an answer where the request sets no limit; small models may never end by themselves."""
MAX_ADAPTERS = 16
"""Adapters that are kept beside one base; a few megabytes each."""


class ContextLengthError(UsageError):
    """The conversation leaves no room for an answer in the model's context."""

    code = "context_length_exceeded"


@dataclass(frozen=True, kw_only=True)
class GenerationRequest(SamplingParams):
    """What to answer, and how.

    Attributes:
        messages: The conversation as the API has it.
        tools: Tool definitions as the API has them.
        max_tokens: Most tokens of the answer; ``None`` for the engine's limit.
        stop: Texts that end the answer; they are not part of it.
        form: Grammar that the answer must follow, from ``constrained_decoding``; ``None`` for free text.
        logprobs: Number of alternatives told with each token's log-probability; ``None`` for no log-probabilities.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    form: str | None = None
    logprobs: int | None = None


class Engine:
    """Loads bases when they are first asked for and keeps the last used ones.

    Args:
        models_dir: Where bases are kept.
        max_loaded_models: Bases that are in memory at the same time.
        say: Called with a line where loading takes a while.
    """

    def __init__(self, *, models_dir: Path, max_loaded_models: int = 2, say: StatusCallback = lambda _: None) -> None:
        self._models_dir = models_dir
        self._max_loaded_models = max_loaded_models
        self._say = say
        self._lock = threading.Lock()
        self._residents: OrderedDict[str, _LoadedModel] = OrderedDict()

    def generate(self, *, base: str, adapter: Path | None, request: GenerationRequest) -> Iterator[Delta]:
        """Answer ``request``; closing the iterator stops the work.

        Args:
            base: Name of the base, as ``resolve_base`` takes it.
            adapter: Folder of an adapter; ``None`` for the base alone.
            request: What to answer.

        Raises:
            NotFoundError: The base or the adapter is not there.
            ContextLengthError: The conversation is too long.
            ChatTemplateError: The base's chat template refuses the conversation.
            GrammarError: No answer can be held to the form.
            LogitBiasError: A bias is for a token that the base does not have.
        """
        resident = self._resident(base)
        prompt = resident.mask.prompt(request.messages, request.tools)
        room = resident.context - len(prompt)
        if room < 1:
            raise ContextLengthError(
                f"the conversation has {len(prompt)} tokens, and the model's context is {resident.context}",
                "shorten the conversation",
            )
        most = min(room, request.max_tokens or DEFAULT_MAX_TOKENS)
        constraint = None if request.form is None else GrammarConstraint(resident.vocabulary(), request.form)
        sampler = Sampler(request, resident.width, constraint)
        return _generate(resident, adapter, request, sampler, prompt, most)

    def count(self, *, base: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> int:
        """Tokens of a conversation in the base's own tokenizer, with the template's generation prompt."""
        return len(self._resident(base).mask.prompt(messages, tools))

    def loaded_models(self) -> tuple[str, ...]:
        """Bases in memory, the one that was used longest ago first."""
        with self._lock:
            return tuple(self._residents)

    def _resident(self, base: str) -> _LoadedModel:
        with self._lock:
            if base not in self._residents:
                self._residents[base] = _load(base, self._models_dir, self._say)
                while len(self._residents) > self._max_loaded_models:
                    self._residents.popitem(last=False)
            self._residents.move_to_end(base)
            return self._residents[base]


class _LoadedModel:
    """A base in memory with its adapters; ``forward`` is the only door to it and lets in one thread at a time."""

    def __init__(self, model: CausalModel, tokenizer: Tokenizer) -> None:
        self.config = config = model.config.get_text_config()
        self.tokenizer = tokenizer
        self.mask = ChatTokenizer(tokenizer)
        self.context = int(getattr(config, "max_position_embeddings", None) or 2048)
        self.device = next(model.parameters()).device
        self.stops = _stop_ids(model, tokenizer) | {self.mask.end_of_turn()}
        self._model = model
        self._cache_name = cache_argument(model)
        self._lock = threading.Lock()
        self._adapters: OrderedDict[Path, str] = OrderedDict()
        self._active: Path | None = None
        self._names = 0
        self._vocabulary: Vocabulary | None = None
        self.width = int(model.get_output_embeddings().weight.shape[0])

    def vocabulary(self) -> Vocabulary:
        """The base's tokens for answers of a given form; made when the first is asked for."""
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(self.tokenizer, self.width, self.stops)
            return self._vocabulary

    def forward(self, adapter: Path | None, ids: list[int], cache: Cache) -> torch.Tensor:
        """Logits in float32 that follow ``ids``, which come after what is in ``cache``."""
        import torch

        with self._lock, torch.inference_mode():
            self._activate(adapter)
            causal = self._model.get_base_model() if self._adapters else self._model
            ids_1T = torch.tensor([ids], device=self.device)
            output = causal(input_ids=ids_1T, use_cache=True, logits_to_keep=1, **{self._cache_name: cache})
            logits: torch.Tensor = output.logits[0, -1].float().cpu()
            return logits

    def _activate(self, adapter: Path | None) -> None:
        if adapter is not None and adapter not in self._adapters:
            self._add(adapter)
        if adapter == self._active:
            return
        if adapter is None:
            self._model.base_model.disable_adapter_layers()
        else:
            self._model.base_model.enable_adapter_layers()
            self._model.set_adapter(self._adapters[adapter])
            self._adapters.move_to_end(adapter)
        self._active = adapter

    def _add(self, adapter: Path) -> None:
        from ftpipe.modeling.loading import load_adapter

        self._names += 1
        name = f"adapter{self._names}"
        self._model = load_adapter(self._model, adapter, name=name)
        self._model.eval()
        self._adapters[adapter] = name
        if len(self._adapters) > MAX_ADAPTERS:
            oldest = next(place for place in self._adapters if place != self._active)
            self._model.delete_adapter(self._adapters.pop(oldest))
        if len(self._adapters) == 1:
            # Wrapping switched the adapter on; the next comparison must not take the base for active.
            self._active = adapter


def _load(base: str, models_dir: Path, say: StatusCallback) -> _LoadedModel:
    try:
        machine = select_device()
        folder = resolve_base(base, models_dir=models_dir, say=say)
        return _LoadedModel(load_base(folder, machine), load_tokenizer(folder))
    except ModuleNotFoundError as exc:
        raise MissingExtraError(f"local models need {exc.name}", "pip install 'ftpipe[local]'") from exc


def _stop_ids(model: CausalModel, tokenizer: Tokenizer) -> set[int]:
    ends = model.generation_config.eos_token_id if model.generation_config else None
    listed = ends if isinstance(ends, list) else [ends]
    return {int(id_) for id_ in [*listed, tokenizer.eos_token_id] if id_ is not None}


def _generate(
    resident: _LoadedModel,
    adapter: Path | None,
    request: GenerationRequest,
    sampler: Sampler,
    prompt: list[int],
    most: int,
) -> Iterator[Delta]:
    from transformers import DynamicCache

    cache, fed, made = DynamicCache(config=resident.config), prompt, 0
    text = IncrementalDetokenizer(resident.tokenizer, request.stop)
    while True:
        logits = resident.forward(adapter, fed, cache)
        chosen = sampler.sample(logits)
        if chosen in resident.stops:
            yield _last(text, "stop", prompt, made)
            return
        made += 1
        delta = text.add(chosen, _logprob(logits, chosen, request.logprobs, resident.tokenizer))
        if text.stopped or made >= most:
            yield _last(text, "stop" if text.stopped else "length", prompt, made, delta)
            return
        if delta.text or delta.logprobs:
            yield delta
        fed = [chosen]


def _last(text: IncrementalDetokenizer, reason: str, prompt: list[int], made: int, delta: Delta | None = None) -> Delta:
    rest = text.flush()
    before = delta or Delta("")
    return Delta(before.text + rest.text, before.logprobs + rest.logprobs, reason, len(prompt), made)


def _logprob(
    logits: torch.Tensor, chosen: int, alternatives: int | None, tokenizer: Tokenizer
) -> tuple[TokenLogprob, ...]:
    if alternatives is None:
        return ()
    import torch

    logprobs = torch.log_softmax(logits, -1)
    top = [
        TokenLogprob(tokenizer.decode([int(id_)]), float(value))
        for value, id_ in zip(*logprobs.topk(alternatives), strict=True)
    ]
    return (TokenLogprob(tokenizer.decode([chosen]), float(logprobs[chosen]), tuple(top)),)
