"""A batch model of its own for architectures like Llama: many sequences with different adapters in each step.

Its results differ from those of transformers by rounding only. It is several times as fast in bfloat16 and int8:
weights are packed once, layers of the same input are one, keys and values are never copied to make a batch, and
common beginnings of prompts are computed once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ftpipe.inference.batch_model import BatchModel, BatchSequence, Precision
from ftpipe.inference.decoder_weights import DecoderLayer, pack_weights
from ftpipe.inference.key_value_slots import KeyValueShape, KeyValueSlots, SlotPool
from ftpipe.inference.lora_weights import LayerKey, LoraBatch, LoraPair, UnsupportedAdapterError, read_lora
from ftpipe.inference.prefix_cache import PREFIX_BLOCK_TOKENS, PrefixCache
from ftpipe.modeling.loading import check_adapter
from ftpipe.modeling.types import CausalModel

if TYPE_CHECKING:
    import torch

MAX_SEQUENCES = 32
MAX_ADAPTERS = 16
"""Adapters in memory for one base model; a few megabytes each."""
MAX_FUSED_ADAPTERS = 8
"""Adapters that are kept in one pair of matrices although no row of the batch has them."""
MAX_KEY_VALUE_BYTES = 2 << 30
MAX_PREFIX_BYTES = 256 << 20
ATTENTION_MULTIPLE = 64
"""Attention of a batch covers a multiple of so many positions; what is behind a sequence's end is masked."""

_Attention: TypeAlias = "Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]"
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
        import torch

        self._weights = weights = pack_weights(model, precision)
        self._precision: Precision = precision
        self._device = weights.embeddings.device
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        shape = KeyValueShape(
            len(weights.layers), weights.key_value_heads, weights.head_size, self._dtype, self._device
        )
        self.vocabulary_size = weights.vocabulary_size
        self.slots = KeyValueSlots(shape, max_key_value_bytes)
        self.prefixes = PrefixCache(max_prefix_bytes)
        self._adapters: OrderedDict[Path, dict[LayerKey, LoraPair]] = OrderedDict()
        self._lora: LoraBatch | None = None
        self._load_other = load_other
        self._other: BatchModel | None = None
        self._others: set[BatchSequence] = set()

    def read_adapter(self, adapter: Path) -> None:
        """Check the files and read them into the page cache of the operating system."""
        if adapter not in self._adapters:
            check_adapter(adapter)
            for file in adapter.iterdir():
                if file.is_file():
                    file.read_bytes()

    def has_room(self, max_length: int) -> bool:
        """Whether all open sequences and this one fit, at their full length."""
        return self.slots.has_room(max_length) and (not self._others or self._get_other().has_room(max_length))

    def open_sequence(
        self, adapter: Path | None, prompt: Sequence[int], max_length: int, *, needs_prompt_logits: bool = False
    ) -> BatchSequence:
        """See ``BatchModel``."""
        try:
            if adapter is not None:
                self._load_adapter(adapter)
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
        if not needs_prompt_logits:
            slot = self.slots.slot(sequence)
            for block in self.prefixes.find(adapter, sequence.prompt):
                end = sequence.length + PREFIX_BLOCK_TOKENS
                slot[..., sequence.length : end, :] = block
                sequence.length = sequence.cached_tokens = end
        return sequence

    def prefill(self, sequences: Sequence[BatchSequence]) -> list[torch.Tensor | None]:
        """See ``BatchModel``."""
        import torch

        own = [sequence for sequence in sequences if sequence not in self._others]
        results: dict[BatchSequence, torch.Tensor | None] = {}
        if own:
            with torch.inference_mode():
                results = dict(zip(own, self._prefill(own), strict=True))
        if len(own) < len(sequences):
            others = [sequence for sequence in sequences if sequence in self._others]
            results |= zip(others, self._get_other().prefill(others), strict=True)
        return [results[sequence] for sequence in sequences]

    def decode(self, sequences: Sequence[BatchSequence], tokens: Sequence[int]) -> torch.Tensor:
        """See ``BatchModel``."""
        import torch

        own = [index for index, sequence in enumerate(sequences) if sequence not in self._others]
        logits = torch.empty(len(sequences), self.vocabulary_size)
        if own:
            with torch.inference_mode():
                logits[own] = self._decode([sequences[index] for index in own], [tokens[index] for index in own])
        others = [index for index, sequence in enumerate(sequences) if sequence in self._others]
        if others:
            rows = self._get_other().decode([sequences[i] for i in others], [tokens[i] for i in others])
            logits[others] = rows
        return logits

    def close_sequence(self, sequence: BatchSequence) -> None:
        """See ``BatchModel``."""
        self.slots.close(sequence)
        if sequence in self._others:
            self._others.discard(sequence)
            self._get_other().close_sequence(sequence)

    def _prefill(self, sequences: list[BatchSequence]) -> list[torch.Tensor | None]:
        import torch

        chunks = [sequence.next_chunk() for sequence in sequences]
        starts = [sequence.length for sequence in sequences]
        slots = [self.slots.slot(sequence) for sequence in sequences]
        ids = [id_ for chunk in chunks for id_ in chunk]
        positions = [start + i for start, chunk in zip(starts, chunks, strict=True) for i in range(len(chunk))]
        adapters = [sequence.adapter for sequence, chunk in zip(sequences, chunks, strict=True) for _ in chunk]
        blocks = [block for part in zip(slots, starts, chunks, strict=True) for block in _blocks(*part)]

        def attend(layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            outputs: list[torch.Tensor] = []
            row = 0
            for slot, start, end in blocks:
                rows = slice(row, row + end - start)
                slot[layer, 0, :, start:end] = keys[rows].transpose(0, 1)
                slot[layer, 1, :, start:end] = values[rows].transpose(0, 1)
                outputs.append(_attend_block(queries[rows], slot[layer, 0, :, :end], slot[layer, 1, :, :end]))
                row = rows.stop
            return torch.cat(outputs)

        hidden = self._compute(ids, positions, adapters, attend)
        results: list[torch.Tensor | None] = []
        for sequence, chunk, slot, rows in zip(
            sequences, chunks, slots, hidden.split([len(c) for c in chunks]), strict=True
        ):
            sequence.length += len(chunk)
            self.prefixes.add(sequence.adapter, sequence.prompt, slot, sequence.length)
            needed = rows if sequence.needs_prompt_logits else rows[-1:] if sequence.is_prefilled else None
            logits = None if needed is None else self._weights.head(needed).cpu()
            results.append(logits if logits is None or sequence.needs_prompt_logits else logits[0])
        return results

    def _decode(self, sequences: list[BatchSequence], tokens: list[int]) -> torch.Tensor:
        import torch

        token_of = dict(zip(sequences, tokens, strict=True))
        groups = [_DecodeGroup(pool, members) for pool, members in self.slots.groups(sequences)]
        ordered = [sequence for group in groups for sequence in group.sequences]

        def attend(layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            if len(groups) == 1:
                return groups[0].attend(layer, queries, keys, values)
            sizes = [len(group.sequences) for group in groups]
            parts = zip(groups, queries.split(sizes), keys.split(sizes), values.split(sizes), strict=True)
            return torch.cat([group.attend(layer, *tensors) for group, *tensors in parts])

        ids = [token_of[sequence] for sequence in ordered]
        positions = [sequence.length for sequence in ordered]
        hidden = self._compute(ids, positions, [sequence.adapter for sequence in ordered], attend)
        for sequence in ordered:
            sequence.length += 1
        row_of = {sequence: row for row, sequence in enumerate(ordered)}
        return self._weights.head(hidden).cpu()[[row_of[sequence] for sequence in sequences]]

    def _compute(
        self, ids: list[int], positions: list[int], adapters: list[Path | None], attend: _Attention
    ) -> torch.Tensor:
        """The last hidden state of each token, normalised."""
        import torch

        weights = self._weights
        at = torch.tensor(positions, device=self._device)
        cosine, sine = weights.cosine[at], weights.sine[at]
        lora = self._lora_of(set(adapters) - {None})
        masks = {} if lora is None else lora.masks(adapters)

        def linear(rows: torch.Tensor, number: int, name: str) -> torch.Tensor:
            output = weights.layers[number].fused[name](rows)
            return output if lora is None else lora.add_to(output, rows, (number, name), masks)

        hidden = weights.embeddings[torch.tensor(ids, device=self._device)].float()
        for number, layer in enumerate(weights.layers):
            qkv = linear(self._norm(hidden, layer.input_norm), number, "qkv")
            queries, keys, values = self._rotate(layer, qkv, cosine, sine)
            attention = attend(number, queries, keys, values).flatten(1).float()
            hidden += linear(attention, number, "output")
            gate, up = linear(self._norm(hidden, layer.output_norm), number, "gate_up").chunk(2, -1)
            hidden += linear(torch.nn.functional.silu(gate) * up, number, "down")
        return self._norm(hidden, weights.norm)

    def _rotate(
        self, layer: DecoderLayer, qkv: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values with indices of token, head and element."""
        import torch

        weights = self._weights
        split = qkv.view(len(qkv), -1, weights.head_size)
        rotated_heads = weights.heads + weights.key_value_heads
        turned, values = split[:, :rotated_heads], split[:, rotated_heads:]
        if layer.query_norm is not None and layer.key_norm is not None:
            queries = self._norm(turned[:, : weights.heads], layer.query_norm)
            turned = torch.cat([queries, self._norm(turned[:, weights.heads :], layer.key_norm)], 1)
        turned = torch.addcmul(turned * cosine, turned.roll(weights.head_size // 2, -1), sine).to(self._dtype)
        return turned[:, : weights.heads], turned[:, weights.heads :], values.to(self._dtype)

    def _norm(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        variance = rows.pow(2).mean(-1, keepdim=True)
        return rows * (variance + self._weights.epsilon).rsqrt() * weight

    def _load_adapter(self, adapter: Path, needed: frozenset[Path] = frozenset()) -> None:
        """Load it if it is not loaded; others are dropped for it, except for those that are needed, too."""
        if adapter not in self._adapters:
            self._adapters[adapter] = read_lora(adapter, self._weights.fused_outputs, len(self._weights.layers))
        self._adapters.move_to_end(adapter)
        for other in [path for path in self._adapters if path not in needed and path != adapter]:
            if len(self._adapters) <= MAX_ADAPTERS:
                break
            del self._adapters[other]

    def _lora_of(self, adapters: set[Path | None]) -> LoraBatch | None:
        """The matrices of all adapters in the batch; built anew when one joins."""
        needed = {adapter for adapter in adapters if adapter is not None}
        if not needed:
            return None
        current = self._lora
        if current is None or not needed <= current.adapters or (len(needed) == 1 < len(current.adapters)):
            previous = current.adapters if current is not None and len(needed) > 1 else frozenset()
            wanted = frozenset(needed | previous if len(needed | previous) <= MAX_FUSED_ADAPTERS else needed)
            for adapter in wanted:
                self._load_adapter(adapter, wanted)
            pairs = {adapter: self._adapters[adapter] for adapter in sorted(wanted)}
            self._lora = current = LoraBatch(pairs, self._precision, self._device)
        return current

    def _get_other(self) -> BatchModel:
        if self._other is None:
            self._other = self._load_other()
        return self._other


def _blocks(slot: torch.Tensor, start: int, chunk: Sequence[int]) -> list[tuple[torch.Tensor, int, int]]:
    """The parts of a chunk in each block of the prefix cache: the slot, start and end."""
    end = start + len(chunk)
    return [(slot, at, min(at + PREFIX_BLOCK_TOKENS, end)) for at in range(start, end, PREFIX_BLOCK_TOKENS)]


def _attend_block(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Causal attention of the last tokens of a sequence to all of its tokens."""
    import torch

    count, heads, size = queries.shape
    key_value_heads, length, _ = keys.shape
    shared = heads // key_value_heads
    grouped = (
        queries.view(count, key_value_heads, shared, size).permute(1, 2, 0, 3).reshape(1, key_value_heads, -1, size)
    )
    mask = torch.ones(count, length, dtype=torch.bool, device=queries.device).tril(length - count).repeat(shared, 1)
    output = torch.nn.functional.scaled_dot_product_attention(grouped, keys[None], values[None], attn_mask=mask)
    return output.view(heads, count, size).transpose(0, 1)


class _DecodeGroup:
    """Sequences in the first slots of a pool, to each of which a token is appended."""

    def __init__(self, pool: SlotPool, sequences: list[BatchSequence]) -> None:
        import torch

        self.sequences = sequences
        self._tensor = pool.tensor
        lengths = torch.tensor([sequence.length for sequence in sequences], device=pool.tensor.device)
        heads = pool.tensor.shape[3]
        slots_and_heads = torch.arange(len(sequences) * heads, device=lengths.device)
        self._rows = slots_and_heads * pool.capacity + lengths.repeat_interleave(heads)
        longest = int(lengths.max()) + 1
        self._covered = min(-(-longest // ATTENTION_MULTIPLE) * ATTENTION_MULTIPLE, pool.capacity)
        is_masked = torch.arange(self._covered, device=lengths.device)[None] > lengths[:, None]
        mask = torch.zeros(is_masked.shape, dtype=pool.tensor.dtype, device=lengths.device)
        self._mask = mask.masked_fill_(is_masked, float("-inf"))[:, None, None]

    def attend(self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Store keys and values of the new tokens, and attend to all tokens of each sequence."""
        import torch

        count, heads, size = queries.shape
        key_value_heads = keys.shape[1]
        stored = self._tensor[layer]
        flat = stored.view(2, -1, size)
        flat[0].index_copy_(0, self._rows, keys.reshape(-1, size))
        flat[1].index_copy_(0, self._rows, values.reshape(-1, size))
        shared = heads // key_value_heads
        all_keys, all_values = stored[:, :count, :, : self._covered]
        output = torch.nn.functional.scaled_dot_product_attention(
            queries.reshape(count, key_value_heads, shared, size),
            all_keys,
            all_values,
            attn_mask=self._mask.expand(count, 1, shared, self._covered),
        )
        return output.reshape(count, heads, size)
