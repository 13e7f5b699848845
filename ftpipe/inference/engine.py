"""Generate answers with a base model and any of its adapters, token by token.

One loaded base model serves all of its adapters. Requests of all threads are computed in one thread, in one batch that
they join and leave between tokens; each has its own random numbers.

Why not ``transformers.generate``: it holds the model until all answers of a batch are complete, so others could not
join, closing a stream would not stop it, and all would have one adapter. This also yields text at once, stops at
strings, and gives log-probabilities before temperature, as the API wants them. vLLM has all of it, but needs a GPU in
its published wheels.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path
from typing import Any

from ftpipe.errors import MissingExtraError, UsageError
from ftpipe.inference.batch_model import BatchModel, Precision
from ftpipe.inference.constrained_decoding import GrammarConstraint, Vocabulary
from ftpipe.inference.decoder import Decoder
from ftpipe.inference.decoder_weights import is_supported
from ftpipe.inference.detokenizer import Delta, IncrementalDetokenizer
from ftpipe.inference.generation import Generation, GenerationStream
from ftpipe.inference.model_cache import ModelCache
from ftpipe.inference.model_thread import ModelThread
from ftpipe.inference.packed_linear import has_int8_kernels
from ftpipe.inference.request import ContextLengthError, GenerationRequest
from ftpipe.inference.sampling import Sampler
from ftpipe.inference.scheduler import Scheduler
from ftpipe.inference.transformers_model import TransformersModel
from ftpipe.modeling.base_models import StatusCallback, resolve_base
from ftpipe.modeling.chat_tokenizer import ChatTokenizer
from ftpipe.modeling.device import DeviceConfig, select_device
from ftpipe.modeling.key_value_sizes import DEFAULT_MAX_NUM_SEQS
from ftpipe.modeling.loading import load_base, load_tokenizer, stop_token_ids
from ftpipe.modeling.types import CausalModel, Tokenizer

DEFAULT_MAX_TOKENS = 1024
"""Tokens of an answer if the request sets no limit; small models may never stop by themselves."""
MAX_CACHED_CONVERSATIONS = 4
"""Conversations whose tokens are kept: the ``n`` answers to a request arrive one after the other."""

MAX_CHARACTERS_PER_TOKEN = 16
"""Of a conversation's characters per token of the context; English has 4 to 5. With more, nothing is rendered and
tokenized: 15 MB took a minute and several gigabytes before they were refused."""


class Engine:
    """Loads base models at their first request and keeps the last used ones.

    Args:
        models_dir: Folder of base models.
        max_loaded_models: Base models that are in memory at the same time.
        max_num_seqs: Maximum number of answers of one base model that are computed at the same time.
        precision: In which answers are computed on a processor; ``None`` for the faster one of bfloat16 and float32.
        on_status: Called with a line if loading takes a while.
        on_loaded: Called in the thread after a model has been loaded and others have been dropped for it.
    """

    def __init__(
        self,
        *,
        models_dir: Path,
        max_loaded_models: int = 2,
        max_num_seqs: int = DEFAULT_MAX_NUM_SEQS,
        precision: Precision | None = None,
        on_status: StatusCallback = lambda _: None,
        on_loaded: Callable[[], None] = lambda: None,
    ) -> None:
        self._models = ModelCache(
            lambda base: _load(base, models_dir, max_num_seqs, precision, on_status),
            max_models=max_loaded_models,
            on_loaded=on_loaded,
            on_dropped=lambda model: model.thread.close(),
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
    ) -> GenerationStream:
        """Answer a request; closing the iterator, or dropping it, stops the generation.

        The answer is computed from now on, whether or not its pieces are taken.

        Args:
            base: Name of the base model, as ``resolve_base`` takes it.
            adapter: Folder of an adapter; ``None`` for the base model alone.
            request: The conversation or text.
            check_cancelled: Called before each piece is taken, and while it is waited for; an error that it raises ends
                the generation.

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
        with model.thread.expecting():
            if adapter is not None:
                model.batch_model.read_adapter(adapter)
            generation = model.new_generation(adapter, request)
            if request.max_tokens == 0:
                generation.end("length", Delta(""))
            else:
                model.thread.submit(generation)
        return GenerationStream(generation, check_cancelled)

    def loaded_models(self) -> tuple[str, ...]:
        """Base models in memory, the least recently used first."""
        return self._models.names()

    def close(self) -> None:
        """Let the threads end once the answers that were requested are complete."""
        self._models.clear()


class _Conversation:
    """The ids of a conversation, once one of its answers has tokenized it."""

    def __init__(self, _key: str) -> None:
        self.lock = threading.Lock()
        self.ids: list[int] | None = None


class _LoadedModel:
    """A base model in memory with its tokenizer, and the thread that computes its answers."""

    def __init__(
        self,
        model: CausalModel,
        batch_model: BatchModel,
        tokenizer: Tokenizer,
        chat_tokenizer: ChatTokenizer,
        max_num_seqs: int,
    ) -> None:
        config = model.config.get_text_config()
        self.context_length = int(getattr(config, "max_position_embeddings", None) or 2048)
        self.batch_model = batch_model
        self.thread = ModelThread(Scheduler(self.batch_model, max_num_seqs=max_num_seqs))
        self._tokenizer = tokenizer
        self._chat_tokenizer = chat_tokenizer
        self._stop_token_ids = stop_token_ids(model, tokenizer) | {chat_tokenizer.end_of_turn()}
        self._conversation = lru_cache(maxsize=MAX_CACHED_CONVERSATIONS)(_Conversation)
        self._conversation_lock = threading.Lock()
        self._vocabulary_lock = threading.Lock()
        self._vocabulary: Vocabulary | None = None

    def new_generation(self, adapter: Path | None, request: GenerationRequest) -> Generation:
        """An answer of which nothing is computed yet; see ``Engine.generate`` for the errors."""
        prompt = self._prompt_ids(request)
        available = self.context_length - len(prompt)
        if available < 1:
            raise ContextLengthError(
                f"the conversation has {len(prompt)} tokens, and the model's context is {self.context_length}",
                "shorten the conversation",
            )
        size = self.batch_model.vocabulary_size
        constraint = None if request.grammar is None else GrammarConstraint(self._load_vocabulary(), request.grammar)
        template = self._chat_tokenizer.template
        return Generation(
            request=request,
            adapter=adapter,
            prompt=prompt,
            max_tokens=min(available, request.max_tokens or DEFAULT_MAX_TOKENS),
            sampler=Sampler(request, size, constraint, prompt),
            detokenizer=IncrementalDetokenizer(
                self._tokenizer,
                request.stop,
                self._chat_tokenizer.decoding_context,
                template.answer_start if request.prompt is None else "",
            ),
            tokenizer=self._tokenizer,
            stop_token_ids=self._stop_token_ids,
        )

    def _load_vocabulary(self) -> Vocabulary:
        """The model's tokens for constrained decoding; built at the first use."""
        with self._vocabulary_lock:
            if self._vocabulary is None:
                size = self.batch_model.vocabulary_size
                self._vocabulary = Vocabulary(self._tokenizer, size, self._stop_token_ids)
            return self._vocabulary

    def _prompt_ids(self, request: GenerationRequest) -> list[int]:
        """Ids of the tokens that the answer follows.

        Raises:
            UsageError: A prompt is empty, or has ids that the model does not have.
            ChatTemplateError: The chat template does not accept the conversation.
        """
        prompt, size = request.prompt, self.batch_model.vocabulary_size
        if prompt is None:
            return self._tokenize_conversation(request)
        ids = [int(id_) for id_ in (self._tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt)]
        if isinstance(prompt, str) and ids[1:2] == [self._tokenizer.bos_token_id] == ids[:1]:
            ids = ids[1:]  # the text begins with the token that the tokenizer adds
        unknown = next((id_ for id_ in ids if not 0 <= id_ < size), None)
        if unknown is not None:
            message = f"token {unknown} is not among the {size} tokens of this model"
            raise UsageError(message, "use token ids of the base model's tokenizer")
        if not ids:
            raise UsageError("the prompt is empty", "give a prompt of one token at least")
        return ids

    def _tokenize_conversation(self, request: GenerationRequest) -> list[int]:
        """Ids of a conversation; those of another one do not wait for it."""
        messages, tools, variables = request.messages, request.tools, request.chat_template_kwargs
        key = json.dumps([messages, tools, None if variables is None else dict(variables)])
        with self._conversation_lock:
            conversation = self._conversation(key)
        with conversation.lock:
            if conversation.ids is None:
                conversation.ids = self._chat_tokenizer.prompt(messages, tools, variables)
        return list(conversation.ids)


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


def _load(
    base: str, models_dir: Path, max_num_seqs: int, precision: Precision | None, on_status: StatusCallback
) -> _LoadedModel:
    try:
        device = select_device()
        if precision in ("float32", "bfloat16"):
            device = DeviceConfig(device.device, precision)
        folder = resolve_base(base, models_dir=models_dir, on_status=on_status)
        model = load_base(folder, device)
        batch_model = build_batch_model(model, folder, device, precision, on_status)
        return _LoadedModel(model, batch_model, load_tokenizer(folder), ChatTokenizer.load(folder), max_num_seqs)
    except ModuleNotFoundError as exc:
        raise MissingExtraError(f"local models need {exc.name}", "pip install 'ftpipe[local]'") from exc


def build_batch_model(
    model: CausalModel,
    folder: Path,
    device: DeviceConfig,
    precision: Precision | None = None,
    on_status: StatusCallback = lambda _: None,
    *,
    is_shared: bool = False,
) -> BatchModel:
    """The decoder of our own if it knows the architecture, else transformers' forward pass.

    Args:
        model: The base model.
        folder: Its folder.
        device: Where it is, and in which precision.
        precision: Of the answers; ``None`` for that of the device.
        on_status: Called with a line if the precision cannot be had.
        is_shared: Whether ``model`` is used for something else, too, so that no adapter may be attached to it.
    """
    can_decode = not device.is_accelerator and is_supported(model)
    if precision == "int8" and not (can_decode and has_int8_kernels()):
        on_status(f"{folder.name} cannot be computed in int8 here; {device.dtype} is used")
        precision = None
    if not can_decode:
        return TransformersModel(load_base(folder, device) if is_shared else model)
    own_precision: Precision = precision or ("bfloat16" if device.dtype == "bfloat16" else "float32")
    return Decoder(model, own_precision, lambda: TransformersModel(load_base(folder, device)))
