"""A batch model without weights, and answers of it, for tests of the scheduler."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.errors import NotFoundError
from ftpipe.inference.batch_model import BatchSequence
from ftpipe.inference.detokenizer import Delta, IncrementalDetokenizer
from ftpipe.inference.generation import Generation
from ftpipe.inference.request import GenerationRequest
from ftpipe.inference.sampling import Sampler

if TYPE_CHECKING:
    import torch

VOCABULARY_SIZE = 600
STOP_TOKEN = 599


class FakeTokenizer:
    """Each token is one character."""

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(chr(0x100 + id_) for id_ in ids)

    def convert_ids_to_tokens(self, id_: int) -> str:
        return self.decode([id_])


class FakeBatchModel:
    """Logits are random numbers that depend on adapter and tokens of a sequence alone.

    Attributes:
        calls: What was computed in each call: ``("prefill" or "decode", owners' first prompt ids)``.
        seconds: How far the clock moves with each call.
        seconds_per_sequence: How much further it moves for each sequence of the call.
        seconds_to_open: How far it moves with each sequence that is opened.
        is_sequential: Whether it says that calls with several sequences are no faster.
        shares_beginnings: Whether ``prefill`` computes only the first of prompts that have the same first token, unless
            one of them was computed before.
        on_call: Called before each computation.
    """

    vocabulary_size = VOCABULARY_SIZE

    def __init__(self, *, max_sequences: int = 4, max_tokens: int = 100_000) -> None:
        self.max_sequences = max_sequences
        self.max_tokens = max_tokens
        self.calls: list[tuple[str, list[int]]] = []
        self.seconds = 0.0
        self.seconds_per_sequence = 0.0
        self.seconds_to_open = 0.0
        self.is_sequential = False
        self.shares_beginnings = False
        self.on_call: Callable[[], object] = lambda: None
        self._beginnings: set[int] = set()
        self.now = 0.0
        self.tokens: dict[BatchSequence, list[int]] = {}
        self.failing: dict[str, Exception] = {}

    def clock(self) -> float:
        """Seconds of the calls so far."""
        return self.now

    def fail_for(self, adapter: str, error: Exception) -> None:
        """Let every call with a sequence of this adapter fail, before anything is computed."""
        self.failing[adapter] = error

    def read_adapter(self, adapter: Path) -> None:
        """There is nothing to read."""

    def has_room(self, max_length: int) -> bool:
        return not self.tokens or sum(one.max_length for one in self.tokens) + max_length <= self.max_tokens

    def open_sequence(
        self, adapter: Path | None, prompt: Sequence[int], max_length: int, *, needs_prompt_logits: bool = False
    ) -> BatchSequence:
        if adapter == Path("missing"):
            raise NotFoundError("there is no such adapter", "")
        sequence = BatchSequence(
            adapter=adapter, prompt=tuple(prompt), max_length=max_length, needs_prompt_logits=needs_prompt_logits
        )
        self.tokens[sequence] = []
        self.now += self.seconds_to_open
        return sequence

    def prefill(self, sequences: Sequence[BatchSequence], *, chunks: int = 1) -> list[torch.Tensor | None]:
        self._begin("prefill", sequences)
        rows: list[torch.Tensor | None] = []
        leaders = {sequence.prompt[0]: sequence for sequence in reversed(sequences)}
        known = set(self._beginnings)
        for sequence in sequences:
            first = sequence.prompt[0]
            if self.shares_beginnings and first not in known and sequence is not leaders[first]:
                rows.append(None)
                continue
            self._beginnings.add(first)
            logits_TV = [self._append(sequence, id_) for id_ in sequence.next_tokens(chunks)]
            if sequence.needs_prompt_logits:
                import torch

                rows.append(torch.stack(logits_TV))
            else:
                rows.append(logits_TV[-1] if sequence.is_prefilled else None)
        return rows

    def decode(self, sequences: Sequence[BatchSequence], tokens: Sequence[int]) -> torch.Tensor:
        import torch

        self._begin("decode", sequences)
        return torch.stack([self._append(one, token) for one, token in zip(sequences, tokens, strict=True)])

    def close_sequence(self, sequence: BatchSequence) -> None:
        self.tokens.pop(sequence, None)

    def _begin(self, name: str, sequences: Sequence[BatchSequence]) -> None:
        assert sequences
        self.on_call()
        assert name == "prefill" or len(sequences) <= self.max_sequences
        for sequence in sequences:
            if str(sequence.adapter) in self.failing:
                raise self.failing[str(sequence.adapter)]
        self.calls.append((name, [sequence.prompt[0] for sequence in sequences]))
        self.now += self.seconds + self.seconds_per_sequence * len(sequences)

    def _append(self, sequence: BatchSequence, token: int) -> torch.Tensor:
        import torch

        self.tokens[sequence].append(token)
        sequence.length += 1
        seed = zlib.crc32(f"{sequence.adapter}{self.tokens[sequence]}".encode())
        logits = torch.randn(VOCABULARY_SIZE, generator=torch.Generator().manual_seed(seed)) * 3
        logits[STOP_TOKEN] -= 1
        return logits


def new_generation(prompt: Sequence[int] = (1,), adapter: str | None = None, **changes: Any) -> Generation:
    """An answer of five tokens, the most probable ones, unless changed."""
    request = GenerationRequest(**{"max_tokens": 5, "temperature": 0.0, **changes})
    tokenizer = FakeTokenizer()
    return Generation(
        request=request,
        adapter=Path(adapter) if adapter else None,
        prompt=list(prompt),
        max_tokens=request.max_tokens or 5,
        sampler=Sampler(request, VOCABULARY_SIZE, prompt=prompt),
        detokenizer=IncrementalDetokenizer(tokenizer, request.stop),
        tokenizer=tokenizer,
        stop_token_ids={STOP_TOKEN},
    )


def read_deltas(generation: Generation) -> list[Delta]:
    """The pieces of an answer so far.

    Raises:
        Exception: The error that ended it.
    """
    deltas: list[Delta] = []
    while (delta := generation.next_delta(0)) is not None:
        deltas.append(delta)
    return deltas
