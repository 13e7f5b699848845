"""Keys and values of the beginnings of prompts, such as a system prompt with tools, that many prompts share."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

PREFIX_BLOCK_TOKENS = 16
"""Prompts share whole blocks, counted from the first token. Attention to a prompt is computed block by block, so that
a block has the same keys and values whether it is computed or taken from the cache."""

_Key: TypeAlias = tuple[Path | int | None, tuple[int, ...]]
"""The number of the block before, or the adapter of a first block; and the ids of the block."""


@dataclass(frozen=True, eq=False)
class _Block:
    number: int
    pairs: torch.Tensor


class PrefixCache:
    """Blocks of prompts, each behind the one before it; the least recently used goes first.

    Args:
        max_bytes: Of all blocks.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._blocks: OrderedDict[_Key, _Block] = OrderedDict()
        self._numbers = itertools.count()
        self.bytes = 0

    def find(self, adapter: Path | None, prompt: Sequence[int]) -> list[torch.Tensor]:
        """The blocks at the beginning of a prompt that are in the cache; its last token is never among them."""
        found = list(self._find(adapter, prompt, len(prompt) - 1))
        self._touch([key for key, _ in found])
        return [block.pairs for _, block in found]

    def add(self, adapter: Path | None, prompt: Sequence[int], slot: torch.Tensor, length: int) -> None:
        """Copy the whole blocks among the first tokens of a prompt.

        Args:
            adapter: With which they were computed.
            prompt: Ids.
            slot: Keys and values, from ``KeyValueSlots``.
            length: Number of tokens that are computed.
        """
        found = list(self._find(adapter, prompt, length))
        keys = [key for key, _ in found]
        before: Path | int | None = found[-1][1].number if found else adapter
        for start in range(len(found) * PREFIX_BLOCK_TOKENS, length - PREFIX_BLOCK_TOKENS + 1, PREFIX_BLOCK_TOKENS):
            end = start + PREFIX_BLOCK_TOKENS
            block = _Block(next(self._numbers), slot[..., start:end, :].clone())
            keys.append((before, tuple(prompt[start:end])))
            self._blocks[keys[-1]] = block
            self.bytes += block.pairs.nbytes
            before = block.number
        self._touch(keys)
        while self.bytes > self._max_bytes:
            _, dropped = self._blocks.popitem(last=False)
            self.bytes -= dropped.pairs.nbytes

    def clear(self) -> None:
        """Forget all blocks."""
        self._blocks.clear()
        self.bytes = 0

    def _find(self, adapter: Path | None, prompt: Sequence[int], length: int) -> Iterator[tuple[_Key, _Block]]:
        """The blocks in the cache that a prompt begins with, up to a length."""
        before: Path | int | None = adapter
        for start in range(0, length - PREFIX_BLOCK_TOKENS + 1, PREFIX_BLOCK_TOKENS):
            key = (before, tuple(prompt[start : start + PREFIX_BLOCK_TOKENS]))
            block = self._blocks.get(key)
            if block is None:
                return
            yield key, block
            before = block.number

    def _touch(self, keys: Sequence[_Key]) -> None:
        """Mark blocks as used last; one is of no use without those before it, so they stay longer."""
        for key in reversed(keys):
            self._blocks.move_to_end(key)
