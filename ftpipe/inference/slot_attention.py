"""Attention of new tokens to all tokens of their sequences, whose keys and values are in slots.

An answer must not depend on the others in its batch. In bfloat16 it does not: the number of sequences changes no bit of
the result. The number of masked positions does, in about one of 30 sequences of more than 128 tokens, so it follows
from the sequence's own length. In float32 the number of sequences changes the last digits, too (torch 2.13, one and two
threads, an AMD EPYC, 2026-11-29).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftpipe.inference.key_value_slots import KeyValueSlots, SlotGroup, SlotPool
from ftpipe.inference.prefix_cache import PREFIX_BLOCK_TOKENS

if TYPE_CHECKING:
    import torch

    from ftpipe.inference.batch_model import BatchSequence

DECODE_QUERY_MULTIPLE = 8
"""Attention of tokens of answers is computed for a multiple of so many rows of queries.

Torch gives each thread a part of one buffer, whose size depends on the rows, up to 32 of them. If such a part does not
begin at a multiple of 64 bytes, sums are added up in another order, and which thread computes a sequence depends on the
others: with three rows and two threads, 3 of 11,200 results had another last digit, and 3 of 208 answers were others;
with eight rows none of 11,200 (torch 2.13, an AMD EPYC, 2026-11-29).
"""
MIN_PROMPT_QUERIES = 32
"""At least so many rows of queries for a part of a prompt, which can have any number of tokens; see above."""


@dataclass(frozen=True)
class HeadCounts:
    """Heads of queries, and of keys and values each."""

    queries: int
    keys: int

    @property
    def shared(self) -> int:
        """Heads of queries for each head of keys."""
        return self.queries // self.keys


@dataclass
class _Block:
    """Positions of several sequences that begin and end alike: attention is computed for all of them at once."""

    pool: SlotPool
    start: int
    end: int
    slots: list[int]
    rows: list[int]
    """The first row of each sequence."""


class PromptAttention:
    """Of parts of prompts, causal; block by block, as in the prefix cache.

    Args:
        slots: Keys and values.
        sequences: Each has as many new tokens as ``counts`` says, behind its length.
        counts: Tokens, in the order of the rows.
        heads: Of the model.
    """

    def __init__(
        self, slots: KeyValueSlots, sequences: Sequence[BatchSequence], counts: Sequence[int], heads: HeadCounts
    ) -> None:
        blocks: dict[tuple[int, int, int], _Block] = {}
        row = 0
        for sequence, count in zip(sequences, counts, strict=True):
            pool, slot = slots.location(sequence)
            last = sequence.length + count
            for start in range(sequence.length, last, PREFIX_BLOCK_TOKENS):
                end = min(start + PREFIX_BLOCK_TOKENS, last)
                block = blocks.setdefault((pool.capacity, start, end), _Block(pool, start, end, [], []))
                block.slots.append(slot)
                block.rows.append(row)
                row += end - start
        self._blocks = [_BlockAttention(blocks[key], heads) for key in sorted(blocks)]

    def attend(self, layer: int, rows: torch.Tensor) -> torch.Tensor:
        """Store the new keys and values, and attend.

        Args:
            layer: Its number.
            rows: Queries, keys and values of each new token; the second index is the head. Further rows are ignored.

        Returns:
            A row for each row.
        """
        import torch

        heads = self._blocks[0].heads
        output = torch.zeros(len(rows), heads.queries, rows.shape[-1], dtype=rows.dtype, device=rows.device)
        for block in self._blocks:
            block.attend(layer, rows, output)
        return output.flatten(1)


class _BlockAttention:
    def __init__(self, block: _Block, heads: HeadCounts) -> None:
        import torch

        tensor = block.pool.tensor
        self.heads = heads
        self._pool, self._start, self._end = block.pool, block.start, block.end
        self._sequences, self._count = len(block.slots), block.end - block.start
        self._slots: slice | torch.Tensor
        self._rows: slice | torch.Tensor
        if self._sequences == 1:  # nothing is copied
            self._slots = slice(block.slots[0], block.slots[0] + 1)
            self._rows = slice(block.rows[0], block.rows[0] + self._count)
        else:
            first = torch.tensor(block.rows, device=tensor.device)
            self._slots = torch.tensor(block.slots, device=tensor.device)
            self._rows = (first[:, None] + torch.arange(self._count, device=tensor.device)).flatten()
        is_later = torch.ones(self._count, block.end, dtype=torch.bool, device=tensor.device).triu(block.start + 1)
        mask = torch.zeros(is_later.shape, dtype=tensor.dtype, device=tensor.device)
        self._extra_rows = max(0, MIN_PROMPT_QUERIES - heads.shared * self._count)
        self._mask = torch.nn.functional.pad(
            mask.masked_fill_(is_later, float("-inf")).repeat(heads.shared, 1), (0, 0, 0, self._extra_rows)
        )

    def attend(self, layer: int, rows: torch.Tensor, output: torch.Tensor) -> None:
        import torch

        sequences, count, heads, size = self._sequences, self._count, self.heads, rows.shape[-1]
        new = rows[self._rows].view(sequences, count, -1, size)
        stored = self._pool.tensor[layer]
        pairs = new[:, :, heads.queries :].unflatten(2, (2, heads.keys)).permute(2, 0, 3, 1, 4)
        stored[:, self._slots, :, self._start : self._end] = pairs
        keys, values = stored[:, self._slots, :, : self._end]
        queries = new[:, :, : heads.queries].unflatten(2, (heads.keys, heads.shared)).permute(0, 2, 3, 1, 4)
        rows_of_keys = torch.nn.functional.pad(
            queries.reshape(sequences, heads.keys, -1, size), (0, 0, 0, self._extra_rows)
        )
        result = torch.nn.functional.scaled_dot_product_attention(rows_of_keys, keys, values, attn_mask=self._mask)
        result = result[:, :, : heads.shared * count]
        by_token = result.reshape(sequences, heads.queries, count, size).transpose(1, 2)
        output[self._rows] = by_token.reshape(-1, heads.queries, size)


class DecodeAttention:
    """Of one new token of each sequence.

    Args:
        slots: Keys and values; there is room for one more token of each sequence afterwards.
        sequences: In the order of the rows.
        heads: Of the model.
    """

    def __init__(self, slots: KeyValueSlots, sequences: Sequence[BatchSequence], heads: HeadCounts) -> None:
        import torch

        groups = list(slots.groups(sequences))
        self._count = len(sequences)
        self._groups = [_DecodeGroup(group, heads) for group in groups]
        self._sizes = [len(group.sequences) for group in groups]
        row_of = {sequence: row for row, sequence in enumerate(sequences)}
        order = [row_of[sequence] for group in groups for sequence in group.sequences]
        self._order: torch.Tensor | None = None
        if order != sorted(order):
            self._order = torch.tensor(order, device=groups[0].pool.tensor.device)
            self._inverse = self._order.argsort()

    def attend(self, layer: int, rows: torch.Tensor) -> torch.Tensor:
        """Store the new keys and values, and attend; see ``PromptAttention.attend``."""
        import torch

        padding = len(rows) - self._count
        ordered = rows[: self._count] if self._order is None else rows[self._order]
        parts = zip(self._groups, ordered.split(self._sizes), strict=True)
        outputs = [group.attend(layer, part) for group, part in parts]
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        output = output if self._order is None else output[self._inverse]
        return torch.nn.functional.pad(output, (0, 0, 0, padding)) if padding else output


class _DecodeGroup:
    def __init__(self, group: SlotGroup, heads: HeadCounts) -> None:
        import torch

        pool, sequences = group.pool, group.sequences
        self._start, self._end, self._covered = group.start, group.start + len(sequences), group.covered
        tensor = pool.tensor
        self._tensor, self._heads = tensor, heads
        device = tensor.device
        lengths = torch.tensor([sequence.length for sequence in sequences], device=device)
        slots = torch.arange(self._start, self._end, device=device)[:, None, None]
        kinds = torch.arange(2, device=device)[:, None] * tensor.shape[2]
        in_pool = (kinds + slots) * heads.keys + torch.arange(heads.keys, device=device)
        self._rows = (in_pool * pool.capacity + lengths[:, None, None]).flatten()
        is_behind = torch.arange(group.covered, device=device)[None] > lengths[:, None]
        mask = torch.zeros(is_behind.shape, dtype=tensor.dtype, device=device).masked_fill_(is_behind, float("-inf"))
        self._extra_rows = -heads.shared % DECODE_QUERY_MULTIPLE
        self._mask = mask[:, None, None].expand(len(sequences), 1, heads.shared + self._extra_rows, group.covered)

    def attend(self, layer: int, rows: torch.Tensor) -> torch.Tensor:
        import torch

        heads, (count, _, size) = self._heads, rows.shape
        stored = self._tensor[layer]
        stored.view(-1, size).index_copy_(0, self._rows, rows[:, heads.queries :].reshape(-1, size))
        keys, values = stored[:, self._start : self._end, :, : self._covered]
        queries = rows[:, : heads.queries].unflatten(1, (heads.keys, heads.shared))
        queries = torch.nn.functional.pad(queries, (0, 0, 0, self._extra_rows))
        output = torch.nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=self._mask)
        return output[:, :, : heads.shared].reshape(count, -1)
