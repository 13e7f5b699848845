"""Generate answers with a base model and any of its adapters, token by token.

One loaded base model serves all of its adapters. Requests run in threads and take turns token by token; each has its
own cache and random numbers.

Why an own generation loop and not ``transformers.generate``: ``generate`` holds the model until the answer is complete,
so requests for different adapters of one base model could not take turns, and closing a stream would not stop it. The
loop also yields text at once, stops at strings, and gives log-probabilities before temperature, as the API wants them.
It is not slower: 4.9 tokens per second against 4.5 (medians of five answers of 128 tokens, SmolLM2-135M in bfloat16 on
two busy CPU cores, 2026-11-28; the difference is noise). vLLM has all of it, but needs another process and, in its
published wheels, a GPU.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.errors import MissingExtraError, UsageError
from ftpipe.inference.constrained_decoding import GrammarConstraint, Vocabulary
from ftpipe.inference.detokenizer import Delta, IncrementalDetokenizer, TokenLogprob
from ftpipe.inference.fair_lock import FairLock
from ftpipe.inference.model_cache import ModelCache
from ftpipe.inference.request import ContextLengthError, GenerationRequest
from ftpipe.inference.sampling import Sampler
from ftpipe.modeling.base_models import StatusCallback, resolve_base
from ftpipe.modeling.chat_tokenizer import ChatTokenizer
from ftpipe.modeling.device import select_device
from ftpipe.modeling.loading import (
    ADAPTER_FILES,
    cache_argument,
    check_adapter,
    load_base,
    load_tokenizer,
    stop_token_ids,
)
from ftpipe.modeling.types import Cache, CausalModel, Tokenizer

if TYPE_CHECKING:
    import torch

DEFAULT_MAX_TOKENS = 1024
"""Tokens of an answer if the request sets no limit; small models may never stop by themselves."""
MAX_ADAPTERS = 16
"""Adapters in memory for one base model; a few megabytes each."""

MAX_CHARACTERS_PER_TOKEN = 16
"""Of a conversation's characters per token of the context; English has 4 to 5. With more, nothing is rendered and
tokenized: 15 MB took a minute and several gigabytes before they were refused."""


MAX_TOKENS_PER_FORWARD = 256
"""Tokens of a prompt that are computed at once; then other requests have their turn."""


class Engine:
    """Loads base models at their first request and keeps the last used ones.

    Args:
        models_dir: Folder of base models.
        max_loaded_models: Base models that are in memory at the same time.
        on_status: Called with a line if loading takes a while.
        track: Entered while a thread loads a model.
        on_loaded: Called in the thread after a model has been loaded and others have been dropped for it.
    """

    def __init__(
        self,
        *,
        models_dir: Path,
        max_loaded_models: int = 2,
        on_status: StatusCallback = lambda _: None,
        track: Callable[[], AbstractContextManager[None]] = nullcontext,
        on_loaded: Callable[[], None] = lambda: None,
    ) -> None:
        self._models = ModelCache(
            lambda base: _load(base, models_dir, on_status),
            max_models=max_loaded_models,
            track=track,
            on_loaded=on_loaded,
        )

    def load(self, base: str) -> Future[Any]:
        """Load a base model in a thread; the future is done at once if it is in memory."""
        return self._models.request(base)

    def generate(
        self,
        *,
        base: str,
        adapter: Path | None,
        request: GenerationRequest,
        check_cancelled: Callable[[], None] = lambda: None,
    ) -> Iterator[Delta]:
        """Answer a request; closing the iterator stops the generation.

        Args:
            base: Name of the base model, as ``resolve_base`` takes it.
            adapter: Folder of an adapter; ``None`` for the base model alone.
            request: The conversation or text.
            check_cancelled: Called before each token; an error that it raises ends the generation.

        Raises:
            NotFoundError: There is no such base model or adapter.
            ContextLengthError: The conversation is too long.
            ChatTemplateError: The chat template does not accept the conversation.
            GrammarError: The grammar cannot be used.
            LogitBiasError: A bias is for a token that the model does not have.
            UsageError: A prompt is empty, or has ids that the model does not have.
        """
        model = self._models.get(base, check_cancelled)
        _check_characters(request, model.context_length)
        model.read_adapter(adapter)
        prompt = model.prompt_ids(request)
        available = model.context_length - len(prompt)
        if available < 1:
            raise ContextLengthError(
                f"the conversation has {len(prompt)} tokens, and the model's context is {model.context_length}",
                "shorten the conversation",
            )
        max_tokens = min(available, request.max_tokens or DEFAULT_MAX_TOKENS)
        constraint = None if request.grammar is None else GrammarConstraint(model.vocabulary(), request.grammar)
        sampler = Sampler(request, model.vocabulary_size, constraint, prompt)
        return _generate(model, adapter, request, sampler, prompt, max_tokens, check_cancelled)

    def loaded_models(self) -> tuple[str, ...]:
        """Base models in memory, the least recently used first."""
        return self._models.names()


class _LoadedModel:
    """A base model in memory with its adapters; ``forward`` runs for one thread at a time."""

    def __init__(self, model: CausalModel, tokenizer: Tokenizer, chat_tokenizer: ChatTokenizer) -> None:
        self.config = config = model.config.get_text_config()
        self.tokenizer = tokenizer
        self.chat_tokenizer = chat_tokenizer
        self.context_length = int(getattr(config, "max_position_embeddings", None) or 2048)
        self.device = next(model.parameters()).device
        self.stop_token_ids = stop_token_ids(model, tokenizer) | {self.chat_tokenizer.end_of_turn()}
        self._model = model
        self._cache_name = cache_argument(model)
        self._lock = FairLock()
        self._vocabulary_lock = threading.Lock()
        self._adapters: OrderedDict[Path, str] = OrderedDict()
        self._active_adapter: Path | None = None
        self._adapter_count = 0
        self._vocabulary: Vocabulary | None = None
        self.vocabulary_size = int(model.get_output_embeddings().weight.shape[0])

    def vocabulary(self) -> Vocabulary:
        """The model's tokens for constrained decoding; built at the first use."""
        with self._vocabulary_lock:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(self.tokenizer, self.vocabulary_size, self.stop_token_ids)
            return self._vocabulary

    def prompt_ids(self, request: GenerationRequest) -> list[int]:
        """Ids of the tokens that the answer follows.

        Raises:
            UsageError: A prompt is empty, or has ids that the model does not have.
            ChatTemplateError: The chat template does not accept the conversation.
        """
        prompt = request.prompt
        if prompt is None:
            return self.chat_tokenizer.prompt(request.messages, request.tools, request.chat_template_kwargs)
        ids = [int(id_) for id_ in (self.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt)]
        if isinstance(prompt, str) and ids[1:2] == [self.tokenizer.bos_token_id] == ids[:1]:
            ids = ids[1:]  # the text begins with the token that the tokenizer adds
        unknown = next((id_ for id_ in ids if not 0 <= id_ < self.vocabulary_size), None)
        if unknown is not None:
            message = f"token {unknown} is not among the {self.vocabulary_size} tokens of this model"
            raise UsageError(message, "use token ids of the base model's tokenizer")
        if not ids:
            raise UsageError("the prompt is empty", "give a prompt of one token at least")
        return ids

    def read_adapter(self, adapter: Path | None) -> None:
        """Read the files of an adapter that is not loaded yet, so that a slow disk is not waited for under the lock.

        Raises:
            NotFoundError: There is no such adapter.
        """
        if adapter is None or adapter in self._adapters:
            return
        check_adapter(adapter)
        for name in ADAPTER_FILES:
            with (adapter / name).open("rb") as file:
                while file.read(1 << 20):
                    pass

    def forward(
        self, adapter: Path | None, ids: list[int], cache: Cache, owner: str = "", *, rows: int = 1
    ) -> torch.Tensor:
        """Logits in float32 of the token after each of the last ``rows`` of ``ids``, which continue ``cache``."""
        import torch

        with self._lock.turn(owner), torch.inference_mode():
            self._activate_adapter(adapter)
            causal = self._model.get_base_model() if self._adapters else self._model
            ids_1T = torch.tensor([ids], device=self.device)
            output = causal(input_ids=ids_1T, use_cache=True, logits_to_keep=rows, **{self._cache_name: cache})
            logits: torch.Tensor = output.logits[0].float().cpu()
            return logits

    def _activate_adapter(self, adapter: Path | None) -> None:
        if adapter is not None and adapter not in self._adapters:
            self._load_adapter(adapter)
        if adapter == self._active_adapter:
            return
        if adapter is None:
            self._model.base_model.disable_adapter_layers()
        else:
            self._model.base_model.enable_adapter_layers()
            self._model.set_adapter(self._adapters[adapter])
            self._adapters.move_to_end(adapter)
        self._active_adapter = adapter

    def _load_adapter(self, adapter: Path) -> None:
        """Attach an adapter, under the lock because it changes the layers that every forward pass runs.

        It takes 0.1 s of processor time (SmolLM2-135M, 2026-11-28); its files were read before.
        """
        from ftpipe.modeling.loading import load_adapter

        self._adapter_count += 1
        name = f"adapter{self._adapter_count}"
        self._model = load_adapter(self._model, adapter, name=name)
        self._model.eval()
        self._adapters[adapter] = name
        if len(self._adapters) > MAX_ADAPTERS:
            oldest = next(path for path in self._adapters if path != self._active_adapter)
            self._model.delete_adapter(self._adapters.pop(oldest))
        if len(self._adapters) == 1:
            # wrapping has enabled the adapter; the next comparison must not take the base model for active
            self._active_adapter = adapter


def _check_characters(request: GenerationRequest, context_length: int) -> None:
    """Raise an error if a conversation cannot fit into the context, by its characters alone."""
    characters = 0
    pending: list[Any] = [request.messages, request.tools, request.chat_template_kwargs, request.prompt]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            characters += len(value)
        elif isinstance(value, Mapping):
            characters += sum(len(key) for key in value)
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    if characters > MAX_CHARACTERS_PER_TOKEN * context_length:
        message = f"the conversation has {characters} characters, and the model's context is {context_length} tokens"
        raise ContextLengthError(message, "shorten the conversation")


def _load(base: str, models_dir: Path, on_status: StatusCallback) -> _LoadedModel:
    try:
        device = select_device()
        folder = resolve_base(base, models_dir=models_dir, on_status=on_status)
        return _LoadedModel(load_base(folder, device), load_tokenizer(folder), ChatTokenizer.load(folder))
    except ModuleNotFoundError as exc:
        raise MissingExtraError(f"local models need {exc.name}", "pip install 'ftpipe[local]'") from exc


def _generate(
    model: _LoadedModel,
    adapter: Path | None,
    request: GenerationRequest,
    sampler: Sampler,
    prompt: list[int],
    max_tokens: int,
    check_cancelled: Callable[[], None],
) -> Iterator[Delta]:
    from transformers import DynamicCache

    cache, input_ids, completion_tokens = DynamicCache(config=model.config), prompt, 0
    chat_tokenizer = model.chat_tokenizer
    detokenizer = IncrementalDetokenizer(
        model.tokenizer,
        request.stop,
        chat_tokenizer.decoding_context,
        chat_tokenizer.template.answer_start if request.prompt is None else "",
    )
    prompt_logprobs: list[TokenLogprob] = []
    if request.prompt_logprobs is not None:
        prompt_logprobs.append(TokenLogprob(model.tokenizer.decode([prompt[0]]), 0.0))
    while True:
        for start in range(0, len(input_ids), MAX_TOKENS_PER_FORWARD):
            check_cancelled()
            ids = input_ids[start : start + MAX_TOKENS_PER_FORWARD]
            rows = 1 if request.prompt_logprobs is None else len(ids)
            logits_TV = model.forward(adapter, ids, cache, request.owner, rows=rows)
            following = [] if request.prompt_logprobs is None else input_ids[start + 1 : start + 1 + len(ids)]
            for logits, token in zip(logits_TV, following, strict=False):
                prompt_logprobs += _token_logprobs(logits, token, request.prompt_logprobs, model.tokenizer)
        if prompt_logprobs:
            yield Delta("", prompt_logprobs=tuple(prompt_logprobs))
            prompt_logprobs = []
        logits = logits_TV[-1]
        token = sampler.sample(logits)
        if token in model.stop_token_ids:
            yield _last_delta(detokenizer, "stop", prompt, completion_tokens)
            return
        completion_tokens += 1
        delta = detokenizer.add(token, _token_logprobs(logits, token, request.logprobs, model.tokenizer))
        if detokenizer.has_stopped or completion_tokens >= max_tokens:
            yield _last_delta(
                detokenizer, "stop" if detokenizer.has_stopped else "length", prompt, completion_tokens, delta
            )
            return
        if delta.text or delta.logprobs:
            yield delta
        input_ids = [token]


def _last_delta(
    detokenizer: IncrementalDetokenizer,
    reason: str,
    prompt: list[int],
    completion_tokens: int,
    delta: Delta | None = None,
) -> Delta:
    rest = detokenizer.flush()
    previous = delta or Delta("")
    return Delta(previous.text + rest.text, previous.logprobs + rest.logprobs, reason, len(prompt), completion_tokens)


def _token_logprobs(
    logits: torch.Tensor, token: int, top_logprobs: int | None, tokenizer: Tokenizer
) -> tuple[TokenLogprob, ...]:
    if top_logprobs is None:
        return ()
    import torch

    logprobs = torch.log_softmax(logits, -1)
    top = [
        TokenLogprob(tokenizer.decode([int(id_)]), float(value))
        for value, id_ in zip(*logprobs.topk(top_logprobs), strict=True)
    ]
    return (TokenLogprob(tokenizer.decode([token]), float(logprobs[token]), tuple(top)),)
