"""Keys and values of the beginnings of prompts, such as a system prompt with tools, that many prompts share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

PREFIX_BLOCK_TOKENS = 32
"""Prompts share whole blocks, counted from the first token. Attention to a prompt is computed block by block, so that
a block has the same keys and values whether it is computed or taken from the cache."""

_Key: TypeAlias = tuple[Path | None, tuple[int, ...]]


class PrefixCache:
    """Blocks of prompts, by the adapter and all ids up to the end of the block; the least recently used goes first.

    Args:
        max_bytes: Of all blocks.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._blocks: OrderedDict[_Key, torch.Tensor] = OrderedDict()
        self.bytes = 0

    def find(self, adapter: Path | None, prompt: Sequence[int]) -> list[torch.Tensor]:
        """The blocks at the beginning of a prompt that are in the cache; its last token is never among them."""
        blocks: list[torch.Tensor] = []
        for end in range(PREFIX_BLOCK_TOKENS, len(prompt), PREFIX_BLOCK_TOKENS):
            key = (adapter, tuple(prompt[:end]))
            if key not in self._blocks:
                break
            blocks.append(self._blocks[key])
        # a block is of no use without those before it, so they are younger
        for count in range(len(blocks), 0, -1):
            self._blocks.move_to_end((adapter, tuple(prompt[: count * PREFIX_BLOCK_TOKENS])))
        return blocks

    def add(self, adapter: Path | None, prompt: Sequence[int], slot: torch.Tensor, length: int) -> None:
        """Copy the whole blocks among the first tokens of a prompt.

        Args:
            adapter: With which they were computed.
            prompt: Ids.
            slot: Keys and values, from ``KeyValueSlots``.
            length: Number of tokens that are computed.
        """
        for end in range(length - length % PREFIX_BLOCK_TOKENS, 0, -PREFIX_BLOCK_TOKENS):
            key = (adapter, tuple(prompt[:end]))
            if key in self._blocks:
                self._blocks.move_to_end(key)
                continue
            block = slot[..., end - PREFIX_BLOCK_TOKENS : end, :].clone()
            self._blocks[key] = block
            self.bytes += block.nbytes
        while self.bytes > self._max_bytes:
            _, dropped = self._blocks.popitem(last=False)
            self.bytes -= dropped.nbytes
