"""A batch model of its own for architectures like Llama: many sequences with different adapters in each step.

Its results differ from those of transformers by rounding only. It is several times as fast in bfloat16 and int8:
weights are packed once, layers of the same input are one, keys and values are never copied to make a batch, and
common beginnings of prompts are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ftpipe.inference.batch_model import BatchModel, BatchSequence, Precision
from ftpipe.inference.decoder_weights import DecoderLayer, DecoderWeights, pack_weights
from ftpipe.inference.key_value_slots import KeyValueShape, KeyValueSlots
from ftpipe.inference.lora_stack import LoraAdapters, LoraRows
from ftpipe.inference.lora_weights import UnsupportedAdapterError
from ftpipe.inference.prefix_cache import PREFIX_BLOCK_TOKENS, PrefixCache
from ftpipe.inference.slot_attention import DecodeAttention, HeadCounts, PromptAttention
from ftpipe.modeling.key_value_sizes import MAX_KEY_VALUE_BYTES
from ftpipe.modeling.loading import read_adapter_files
from ftpipe.modeling.types import CausalModel

if TYPE_CHECKING:
    import torch

MAX_SEQUENCES = 256
MAX_EXACT_ROWS = 32
"""With more rows, some are computed for nothing; see ``padded_rows``."""
MAX_PREFIX_BYTES = 256 << 20

_Attention: TypeAlias = "Callable[[int, torch.Tensor], torch.Tensor]"
"""Of a layer to queries, keys and values of new tokens; the result has a row for each token."""


class Decoder:
    """See ``BatchModel`` for the methods.

    Args:
        model: A base model for which ``is_supported`` is true; it is not needed afterwards.
        precision: Of weights and products.
        load_other: Loads the base model once more, for adapters that only peft can compute.
        max_key_value_bytes: Of open sequences, if more than one is open.
        max_prefix_bytes: Of the prefix cache.
    """

    max_sequences = MAX_SEQUENCES
    is_sequential = False

    def __init__(
        self,
        model: CausalModel,
        precision: Precision,
        load_other: Callable[[], BatchModel],
        *,
        max_key_value_bytes: int = MAX_KEY_VALUE_BYTES,
        max_prefix_bytes: int = MAX_PREFIX_BYTES,
    ) -> None:
        self._weights = weights = pack_weights(model, precision)
        self._device = weights.embeddings.device
        self._heads = HeadCounts(weights.heads, weights.key_value_heads)
        self._dtype = _attention_dtype(weights, precision)
        shape = KeyValueShape(
            len(weights.layers), weights.key_value_heads, weights.head_size, self._dtype, self._device
        )
        self.vocabulary_size = weights.vocabulary_size
        self.slots = KeyValueSlots(shape, max_key_value_bytes)
        self.prefixes = PrefixCache(max_prefix_bytes)
        self._adapters = LoraAdapters(weights.fused_outputs, len(weights.layers), self._dtype, self._device)
        self._load_other = load_other
        self._other: BatchModel | None = None
        self._others: set[BatchSequence] = set()

    def read_adapter(self, adapter: Path) -> None:
        """See ``BatchModel``."""
        if adapter not in self._adapters:
            read_adapter_files(adapter)

    def forget_adapters(self) -> None:
        """Free the memory of adapters and of beginnings of prompts; no sequence may be open."""
        self._adapters.clear()
        self.prefixes.clear()

    def has_room(self, max_length: int) -> bool:
        """Whether all open sequences and this one fit, at their full length."""
        return self.slots.has_room(max_length) and (not self._others or self._get_other().has_room(max_length))

    def open_sequence(
        self, adapter: Path | None, prompt: Sequence[int], max_length: int, *, needs_prompt_logits: bool = False
    ) -> BatchSequence:
        """See ``BatchModel``."""
        try:
            if adapter is not None:
                self._adapters.load(adapter)
        except UnsupportedAdapterError:
            sequence = self._get_other().open_sequence(
                adapter, prompt, max_length, needs_prompt_logits=needs_prompt_logits
            )
            self._others.add(sequence)
            return sequence
        sequence = BatchSequence(
            adapter=adapter, prompt=tuple(prompt), max_length=max_length, needs_prompt_logits=needs_prompt_logits
        )
        self.slots.open(sequence)
        self._read_prefixes(sequence)
        return sequence

    def prefill(self, sequences: Sequence[BatchSequence], *, chunks: int = 1) -> list[torch.Tensor | None]:
        """See ``BatchModel``."""
        import torch

        own = [sequence for sequence in sequences if sequence not in self._others]
        others = [sequence for sequence in sequences if sequence in self._others]
        results: dict[BatchSequence, torch.Tensor | None] = {}
        if others:  # first: after an error the scheduler computes each sequence by itself that was not computed yet
            results |= zip(others, self._get_other().prefill(others, chunks=chunks), strict=True)
        if own:
            with torch.inference_mode():
                results |= self._prefill(own, chunks)
        return [results[sequence] for sequence in sequences]

    def decode(self, sequences: Sequence[BatchSequence], tokens: Sequence[int]) -> torch.Tensor:
        """See ``BatchModel``."""
        import torch

        others = [index for index, sequence in enumerate(sequences) if sequence in self._others]
        if not others:
            with torch.inference_mode():
                return self._decode(list(sequences), list(tokens))
        logits = torch.empty(len(sequences), self.vocabulary_size)
        logits[others] = self._get_other().decode([sequences[i] for i in others], [tokens[i] for i in others])
        own = [index for index, sequence in enumerate(sequences) if sequence not in self._others]
        if own:
            with torch.inference_mode():
                logits[own] = self._decode([sequences[i] for i in own], [tokens[i] for i in own])
        return logits

    def close_sequence(self, sequence: BatchSequence) -> None:
        """See ``BatchModel``."""
        self.slots.close(sequence)
        if sequence in self._others:
            self._others.discard(sequence)
            self._get_other().close_sequence(sequence)

    def _prefill(self, sequences: list[BatchSequence], chunks: int) -> dict[BatchSequence, torch.Tensor | None]:
        import torch

        leaders = sorted(self._without_followers(sequences, chunks), key=_adapter_key)
        parts = [sequence.next_tokens(chunks) for sequence in leaders]
        counts = [len(part) for part in parts]
        ids = [id_ for part in parts for id_ in part]
        positions = [sequence.length + i for sequence, count in zip(leaders, counts, strict=True) for i in range(count)]
        adapters = self._adapters.rows([one.adapter for one in leaders], counts, padded_rows(sum(counts)))
        attention = PromptAttention(self.slots, leaders, counts, self._heads)
        hidden = self._compute(ids, positions, adapters, attention.attend)
        needed: list[torch.Tensor] = []
        for sequence, rows in zip(leaders, hidden.split(counts), strict=True):
            sequence.length += len(rows)
            if sequence.needs_prompt_logits:
                needed.append(rows)
                continue
            self.prefixes.add(sequence.adapter, sequence.prompt, self.slots.slot(sequence), sequence.length)
            needed.append(rows[-1:] if sequence.is_prefilled else rows[:0])
        results: dict[BatchSequence, torch.Tensor | None] = dict.fromkeys(sequences)
        if any(len(rows) for rows in needed):
            logits = self._logits(torch.cat(needed)).split([len(rows) for rows in needed])
            for sequence, rows in zip(leaders, logits, strict=True):
                if len(rows):
                    results[sequence] = rows if sequence.needs_prompt_logits else rows[0]
        return results

    def _without_followers(self, sequences: list[BatchSequence], chunks: int) -> list[BatchSequence]:
        """Those whose next block is not computed for another one in the same step: it will be in the prefix cache."""
        computed: set[tuple[Path | None, tuple[int, ...]]] = set()
        leaders: list[BatchSequence] = []
        for sequence in sequences:
            self._read_prefixes(sequence)
            end = sequence.length + len(sequence.next_tokens(chunks))
            ends = range(sequence.length + PREFIX_BLOCK_TOKENS, end + 1, PREFIX_BLOCK_TOKENS)
            blocks = [] if sequence.needs_prompt_logits else [(sequence.adapter, sequence.prompt[:at]) for at in ends]
            if not blocks or blocks[0] not in computed:
                leaders.append(sequence)
                computed.update(blocks)
        return leaders

    def _read_prefixes(self, sequence: BatchSequence) -> None:
        """Take the next blocks of a prompt from the prefix cache if they are there."""
        if sequence.needs_prompt_logits:
            return
        slot = self.slots.slot(sequence)
        blocks = self.prefixes.find(sequence.adapter, sequence.prompt)
        for block in blocks[sequence.length // PREFIX_BLOCK_TOKENS :]:
            end = sequence.length + PREFIX_BLOCK_TOKENS
            slot[..., sequence.length : end, :] = block
            sequence.length = end
            sequence.cached_tokens += PREFIX_BLOCK_TOKENS

    def _decode(self, sequences: list[BatchSequence], tokens: list[int]) -> torch.Tensor:
        order = sorted(range(len(sequences)), key=lambda index: _adapter_key(sequences[index]))
        ordered = [sequences[index] for index in order]
        attention = DecodeAttention(self.slots, ordered, self._heads)
        positions = [sequence.length for sequence in ordered]
        counts = [1] * len(ordered)
        adapters = self._adapters.rows([one.adapter for one in ordered], counts, padded_rows(len(ordered)))
        hidden = self._compute([tokens[index] for index in order], positions, adapters, attention.attend)
        for sequence in ordered:
            sequence.length += 1
        if order != sorted(order):
            hidden = hidden[sorted(range(len(order)), key=order.__getitem__)]  # in the order of the arguments again
        return self._logits(hidden)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """In float32 and in memory of the processor."""
        return self._weights.head(hidden).float().cpu()

    def _compute(self, ids: list[int], positions: list[int], adapters: LoraRows, attend: _Attention) -> torch.Tensor:
        """The last hidden state of each token, normalised."""
        import torch

        weights = self._weights
        count = len(ids)
        padding = [0] * (padded_rows(count) - count)
        at = torch.tensor(positions + padding, device=self._device)
        cosine, sine = weights.cosine[at], weights.sine[at]

        def linear(rows: torch.Tensor, number: int, name: str) -> torch.Tensor:
            rows = rows.to(weights.dtype)
            return adapters.add_to(weights.layers[number].fused[name](rows), rows, (number, name))

        hidden = weights.embeddings[torch.tensor(ids + padding, device=self._device)].float()
        for number, layer in enumerate(weights.layers):
            qkv = linear(self._norm(hidden, layer.input_norm), number, "qkv")
            attention = attend(number, self._rotate(layer, qkv, cosine, sine))
            hidden += linear(attention, number, "output")
            gate, up = linear(self._norm(hidden, layer.output_norm), number, "gate_up").chunk(2, -1)
            hidden += linear(torch.nn.functional.silu(gate.float()) * up, number, "down")
        return self._norm(hidden[:count], weights.norm)

    def _rotate(self, layer: DecoderLayer, qkv: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values with indices of token, head and element; positions are in the first two."""
        import torch

        weights, heads = self._weights, self._heads
        split = qkv.view(qkv.shape[0], -1, weights.head_size)
        turned = split[:, : heads.queries + heads.keys].float()
        if layer.query_norm is not None and layer.key_norm is not None:
            queries = self._norm(turned[:, : heads.queries], layer.query_norm)
            turned = torch.cat([queries, self._norm(turned[:, heads.queries :], layer.key_norm)], 1)
        rotated = torch.addcmul(turned * cosine, turned.roll(weights.head_size // 2, -1), sine)
        result = split.to(self._dtype)
        result[:, : heads.queries + heads.keys] = rotated
        return result

    def _norm(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        variance = rows.pow(2).mean(-1, keepdim=True)
        return rows * (variance + self._weights.epsilon).rsqrt() * weight

    def _get_other(self) -> BatchModel:
        if self._other is None:
            self._other = self._load_other()
        return self._other


def padded_rows(count: int) -> int:
    """Rows that are computed for so many: up to an eighth more, so that there are few different numbers.

    oneDNN compiles and keeps a kernel for each number of rows of each layer: after a thousand requests to a tiny base,
    a server had 529 MB without this and 489 MB with it (tests/benchmarks/serving.py, 2026-11-29).
    """
    step = 1 << max(0, count.bit_length() - 4) if count > MAX_EXACT_ROWS else 1
    return -(-count // step) * step


def _attention_dtype(weights: DecoderWeights, precision: Precision) -> torch.dtype:
    """Of keys, values and adapters: there are no operators in int8 for them.

    In int8 it is bfloat16 if the base was loaded in it, because the processor is good at it. Attention in float32
    depends on the number of positions that it covers, and so on the other sequences; in bfloat16 it does not.
    """
    import torch

    is_bfloat16 = precision == "bfloat16" or (precision == "int8" and weights.embeddings.dtype == torch.bfloat16)
    return torch.bfloat16 if is_bfloat16 else torch.float32


def _adapter_key(sequence: BatchSequence) -> str:
    return str(sequence.adapter or "")
