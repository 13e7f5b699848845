"""What the scheduler needs from a base model in memory: sequences that are computed together, each with its adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import torch

Precision: TypeAlias = Literal["float32", "bfloat16", "int8"]
"""Of weights and products; sums are float32."""
PREFILL_CHUNK_TOKENS = 64
"""Tokens of a prompt that are computed at once, counted from its first token, so that the common beginning of prompts
has the same chunks in each of them."""
MAX_ADAPTERS = 16
"""Adapters in memory for one base model; a few megabytes each."""


@dataclass(eq=False, kw_only=True)
class BatchSequence:
    """A prompt and its answer while they are computed; only the model changes it.

    Attributes:
        adapter: Folder of the adapter; ``None`` for the base model alone.
        prompt: Ids of the prompt.
        max_length: Most tokens of prompt and answer together.
        needs_prompt_logits: Whether the logits after each token of the prompt are needed; then nothing is taken from
            the prefix cache.
        length: Tokens that are computed, those of the answer included.
        cached_tokens: Tokens of the prompt that were taken from the prefix cache.
    """

    adapter: Path | None
    prompt: tuple[int, ...]
    max_length: int
    needs_prompt_logits: bool = False
    length: int = 0
    cached_tokens: int = 0

    @property
    def is_prefilled(self) -> bool:
        """Whether the whole prompt is computed."""
        return self.length >= len(self.prompt)

    def next_tokens(self, chunks: int) -> tuple[int, ...]:
        """The ids of the prompt that are computed next, up to the end of so many chunks."""
        end = (self.length // PREFILL_CHUNK_TOKENS + chunks) * PREFILL_CHUNK_TOKENS
        return self.prompt[self.length : end]


class BatchModel(Protocol):
    """A base model in memory; one thread at a time calls it, except for ``read_adapter``."""

    vocabulary_size: int
    """Number of logits."""
    max_sequences: int
    """Most sequences that one call of ``decode`` should have."""
    is_sequential: bool
    """Whether ``decode`` takes as long for several sequences as one call for each of them."""

    def read_adapter(self, adapter: Path) -> None:
        """Read an adapter's files, so that ``open_sequence`` does not wait for a slow disk; any thread may call it.

        Raises:
            NotFoundError: There is no such adapter, or it is one for another base model.
        """

    def has_room(self, max_length: int) -> bool:
        """Whether memory is left for one more sequence of this length; always true if no sequence is open."""

    def open_sequence(
        self, adapter: Path | None, prompt: Sequence[int], max_length: int, *, needs_prompt_logits: bool = False
    ) -> BatchSequence:
        """Begin a sequence. Its first tokens may be in the prefix cache already; the last one never is.

        Raises:
            NotFoundError: There is no such adapter, or it is one for another base model.
        """

    def prefill(self, sequences: Sequence[BatchSequence], *, chunks: int = 1) -> list[torch.Tensor | None]:
        """Compute the next chunks of each prompt; of prompts that begin alike perhaps only those of one.

        Args:
            sequences: Their prompts are not computed yet.
            chunks: Of each prompt, at most.

        Returns:
            For each sequence the logits after its prompt in float32, or ``None`` if chunks remain. If it needs prompt
            logits, those after each token of the chunk, a row for each.
        """

    def decode(self, sequences: Sequence[BatchSequence], tokens: Sequence[int]) -> torch.Tensor:
        """Append a token to each sequence.

        Returns:
            The logits after each token, a row for each sequence, in float32 and in memory of the CPU.
        """

    def close_sequence(self, sequence: BatchSequence) -> None:
        """Free the memory of a sequence; does nothing if it is closed."""
