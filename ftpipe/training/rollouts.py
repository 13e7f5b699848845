"""Sample answers from the model that is being trained: many prompts at a time, with the decoder of the server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftpipe.inference.decoder import Decoder
from ftpipe.inference.detokenizer import IncrementalDetokenizer
from ftpipe.inference.engine import build_batch_model
from ftpipe.inference.generation import Generation
from ftpipe.inference.request import GenerationRequest
from ftpipe.inference.sampling import Sampler
from ftpipe.inference.scheduler import Scheduler
from ftpipe.modeling.chat_tokenizer import ChatTokenizer
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.key_value_sizes import DEFAULT_MAX_NUM_SEQS
from ftpipe.modeling.loading import load_tokenizer, stop_token_ids
from ftpipe.modeling.types import CausalModel

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SampledAnswer:
    """An answer; a token that ends it is one of its ids, and not part of its text."""

    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class SampleRequest:
    """A prompt's token ids, and the seed of the answer."""

    prompt: tuple[int, ...]
    seed: int


class _RecordingSampler(Sampler):
    """Samples from the whole distribution, and keeps the tokens."""

    def __init__(self, request: GenerationRequest, vocabulary_size: int) -> None:
        super().__init__(request, vocabulary_size)
        self.ids: list[int] = []

    def sample(self, logits: torch.Tensor) -> int:
        token = super().sample(logits)
        self.ids.append(token)
        return token


class AnswerSampler:
    """Samples answers with a base model and its adapter of the moment.

    The weights of the base model are packed once; only the adapter changes between steps.

    Args:
        base: The base model, before it gets an adapter for training.
        base_dir: Its folder.
        device: Device and precision.
        folder: Where adapters are written for the decoder.
        max_tokens: Most tokens of an answer.
    """

    def __init__(
        self, base: CausalModel, base_dir: Path, device: DeviceConfig, *, folder: Path, max_tokens: int
    ) -> None:
        self._model = build_batch_model(base, base_dir, device, is_shared=True)
        self._tokenizer = load_tokenizer(base_dir)
        self._chat_tokenizer = ChatTokenizer.load(base_dir)
        self._stop_token_ids = stop_token_ids(base, self._tokenizer) | {self._chat_tokenizer.end_of_turn()}
        self._folder = folder
        self._max_tokens = max_tokens
        self._version = 0
        shutil.rmtree(folder, ignore_errors=True)

    @property
    def is_batched(self) -> bool:
        """Whether answers are computed together, and not one after the other."""
        return not self._model.is_sequential

    def sample(
        self,
        adapter_files: Mapping[str, bytes],
        requests: Sequence[SampleRequest],
        check_cancelled: Callable[[], None] = lambda: None,
    ) -> list[SampledAnswer]:
        """An answer to each prompt; the same seeds and weights give the same answers.

        Args:
            adapter_files: The adapter's files by name.
            requests: Prompts and seeds.
            check_cancelled: Called between tokens; an error that it raises ends the sampling.
        """
        adapter = self._write(adapter_files)
        try:
            answers = self._sample(adapter, requests, check_cancelled)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
        if isinstance(self._model, Decoder):
            self._model.forget_adapters()  # the next ones are others
        return answers

    def _write(self, files: Mapping[str, bytes]) -> Path:
        """A folder of a new name for each version, because the decoder keeps adapters by their folders."""
        self._version += 1
        adapter = self._folder / f"adapter-{self._version}"
        adapter.mkdir(mode=0o700, parents=True)
        for name, content in files.items():
            (adapter / name).write_bytes(content)
        return adapter

    def _sample(
        self, adapter: Path, requests: Sequence[SampleRequest], check_cancelled: Callable[[], None]
    ) -> list[SampledAnswer]:
        scheduler = Scheduler(self._model, max_num_seqs=DEFAULT_MAX_NUM_SEQS)
        samplers: list[_RecordingSampler] = []
        generations: list[Generation] = []
        for request in requests:
            params = GenerationRequest(prompt=request.prompt, seed=request.seed)
            samplers.append(_RecordingSampler(params, self._model.vocabulary_size))
            generations.append(self._generation(params, request, adapter, samplers[-1]))
            scheduler.add(generations[-1])
        while scheduler.running or scheduler.waiting:
            check_cancelled()
            scheduler.step()
        texts = [_text_of(generation) for generation in generations]
        return [SampledAnswer(tuple(sampler.ids), text) for sampler, text in zip(samplers, texts, strict=True)]

    def _generation(
        self, params: GenerationRequest, request: SampleRequest, adapter: Path, sampler: Sampler
    ) -> Generation:
        chat = self._chat_tokenizer
        return Generation(
            request=params,
            adapter=adapter,
            prompt=list(request.prompt),
            max_tokens=self._max_tokens,
            sampler=sampler,
            detokenizer=IncrementalDetokenizer(self._tokenizer, (), chat.decoding_context, chat.template.answer_start),
            tokenizer=self._tokenizer,
            stop_token_ids=self._stop_token_ids,
        )


def _text_of(generation: Generation) -> str:
    """The text of an answer that has ended."""
    pieces: list[str] = []
    while True:
        delta = generation.next_delta(timeout=0)
        if delta is None:
            message = "a sampled answer has no end"
            raise RuntimeError(message)
        pieces.append(delta.text)
        if delta.finish_reason is not None:
            return "".join(pieces)
