"""Keys and values of sequences in shared tensors, so that one attention serves many sequences.

Sequences of about the same length are in one pool: a tensor with a slot for each of them. A sequence that outgrows its
pool moves to the next one, whose slots are twice as long; so memory is at most about twice what the tokens need, and
twice that while a pool grows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftpipe.modeling.key_value_sizes import slot_tokens

if TYPE_CHECKING:
    import torch

    from ftpipe.inference.batch_model import BatchSequence

TENSOR_ALIGNMENT = 64
"""Bytes; as torch's own tensors, so that operators compute them in the same way."""
ATTENTION_MULTIPLE = 64
MAX_FINE_TOKENS = 256


def attention_tokens(length: int) -> int:
    """Positions that attention covers for a sequence of a length: 64, 128, 192, 256, 384, 512, 768, 1,024 and so on.

    It is the same whatever other sequences are there: more masked positions would change the last digits.
    """
    if length <= MAX_FINE_TOKENS:
        return -(-length // ATTENTION_MULTIPLE) * ATTENTION_MULTIPLE
    power = 1 << (length - 1).bit_length()
    return power * 3 // 4 if length <= power * 3 // 4 else power


@dataclass(frozen=True)
class KeyValueShape:
    """Of the keys and values of one token."""

    layers: int
    heads: int
    head_size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """Of keys and values in all layers."""
        return 2 * self.layers * self.heads * self.head_size * int(self.dtype.itemsize)


class SlotPool:
    """Slots of one length; those in use are the first ones.

    Attributes:
        tensor: Indices are layer, key or value, slot, head, position, and element.
        sequences: In the order of their slots.
    """

    def __init__(self, shape: KeyValueShape, capacity: int) -> None:
        self._shape = shape
        self.capacity = capacity
        self.sequences: list[BatchSequence] = []
        self.tensor = self._allocate(0)

    def add(self, sequence: BatchSequence) -> None:
        """Use one more slot."""
        if len(self.sequences) == self.tensor.shape[2]:
            self._resize(max(1, 2 * len(self.sequences)))
        self.sequences.append(sequence)

    def remove(self, sequence: BatchSequence) -> None:
        """Free a slot; the last one is moved there."""
        self.swap(self.sequences.index(sequence), len(self.sequences) - 1, both=False)
        self.sequences.pop()
        if 4 * len(self.sequences) <= self.tensor.shape[2]:
            self._resize(2 * len(self.sequences))

    def slot(self, sequence: BatchSequence) -> torch.Tensor:
        """Keys and values of one sequence; indices are layer, key or value, head, position, and element."""
        return self.tensor[:, :, self.sequences.index(sequence)]

    def move_to_front(self, sequences: Sequence[BatchSequence]) -> None:
        """Give these sequences the first slots, in any order."""
        first = set(sequences)
        free = [index for index in range(len(first)) if self.sequences[index] not in first]
        for index in range(len(first), len(self.sequences)):
            if self.sequences[index] in first:
                self.swap(free.pop(), index)

    def arrange(self, sequences: Sequence[BatchSequence]) -> list[tuple[int, int]]:
        """Give these sequences the first slots, those with as much to cover in attention side by side.

        Returns:
            What attention covers, and the number of sequences for which it does.
        """
        self.move_to_front(sequences)
        front = self.sequences[: len(sequences)]
        wanted = sorted(_covered(sequence) for sequence in front)
        for left, covered in enumerate(wanted):
            if _covered(self.sequences[left]) != covered:
                right = next(
                    index
                    for index in range(left + 1, len(wanted))
                    if _covered(self.sequences[index]) == covered != wanted[index]
                )
                self.swap(left, right)
        return sorted(Counter(wanted).items())

    def swap(self, left: int, right: int, *, both: bool = True) -> None:
        """Exchange two slots; unless ``both``, the content of the left one is lost."""
        if left == right:
            return
        sequences = self.sequences
        sequences[left], sequences[right] = sequences[right], sequences[left]
        into_left, into_right = sequences[left].length, sequences[right].length
        saved = self.tensor[:, :, left, :, :into_right].clone() if both else None
        self.tensor[:, :, left, :, :into_left] = self.tensor[:, :, right, :, :into_left]
        if saved is not None:
            self.tensor[:, :, right, :, :into_right] = saved

    def _resize(self, slots: int) -> None:
        old = self.tensor
        self.tensor = self._allocate(slots)
        used, longest = len(self.sequences), max((sequence.length for sequence in self.sequences), default=0)
        self.tensor[:, :, :used, :, :longest] = old[:, :, :used, :, :longest]

    def _allocate(self, slots: int) -> torch.Tensor:
        import torch

        shape = self._shape
        sizes = (shape.layers, 2, slots, shape.heads, self.capacity, shape.head_size)
        # a tensor that is made in inference mode, as when a sequence grows, could not be changed outside of it later
        with torch.inference_mode(mode=False):
            # zeros: what is masked in attention must be finite
            if shape.device.type != "cpu":
                return torch.zeros(sizes, dtype=shape.dtype, device=shape.device)
            return _lazy_zeros(sizes, shape.dtype)


def _lazy_zeros(sizes: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros whose memory the system provides when it is used: torch would write all of them at once."""
    import numpy as np
    import torch

    size = math.prod(sizes) * dtype.itemsize
    memory = torch.from_numpy(np.zeros(size + TENSOR_ALIGNMENT, np.uint8))
    start = -memory.data_ptr() % TENSOR_ALIGNMENT
    return memory[start : start + size].view(dtype).view(sizes)


@dataclass(frozen=True)
class SlotGroup:
    """Sequences in neighbouring slots of a pool, from ``start`` on, of which attention covers as many positions."""

    pool: SlotPool
    start: int
    sequences: list[BatchSequence]
    covered: int


def _covered(sequence: BatchSequence) -> int:
    """With one more token."""
    return attention_tokens(sequence.length + 1)


class KeyValueSlots:
    """The keys and values of all open sequences.

    Args:
        shape: Of one token.
        max_bytes: For all sequences at their full length, if more than one is open.
    """

    def __init__(self, shape: KeyValueShape, max_bytes: int) -> None:
        self._shape = shape
        self._max_bytes = max_bytes
        self._pools: dict[int, SlotPool] = {}
        self._pool_of: dict[BatchSequence, SlotPool] = {}

    @property
    def bytes(self) -> int:
        """Memory of all pools."""
        return sum(pool.tensor.nbytes for pool in self._pools.values())

    def has_room(self, max_length: int) -> bool:
        """Whether one more sequence fits, at its full length."""
        lengths = [max_length, *(sequence.max_length for sequence in self._pool_of)]
        total = sum(slot_tokens(length) for length in lengths) * self._shape.bytes_per_token
        return len(lengths) == 1 or total <= self._max_bytes

    def open(self, sequence: BatchSequence) -> None:
        """Give a sequence a slot in which its prompt fits."""
        pool = self._pool(len(sequence.prompt))
        pool.add(sequence)
        self._pool_of[sequence] = pool

    def close(self, sequence: BatchSequence) -> None:
        """Free the slot of a sequence; does nothing if it has none."""
        pool = self._pool_of.pop(sequence, None)
        if pool is not None:
            pool.remove(sequence)
            if not pool.sequences:
                del self._pools[pool.capacity]

    def slot(self, sequence: BatchSequence) -> torch.Tensor:
        """Keys and values of one sequence; indices are layer, key or value, head, position, and element."""
        return self._pool_of[sequence].slot(sequence)

    def location(self, sequence: BatchSequence) -> tuple[SlotPool, int]:
        """The pool of a sequence and the number of its slot."""
        pool = self._pool_of[sequence]
        return pool, pool.sequences.index(sequence)

    def groups(self, sequences: Sequence[BatchSequence]) -> Iterator[SlotGroup]:
        """Sequences by what attention covers; each has room for one more token."""
        by_pool: dict[SlotPool, list[BatchSequence]] = {}
        for sequence in sequences:
            self._grow(sequence)
            by_pool.setdefault(self._pool_of[sequence], []).append(sequence)
        for pool, members in by_pool.items():
            start = 0
            for covered, count in pool.arrange(members):
                yield SlotGroup(pool, start, pool.sequences[start : start + count], covered)
                start += count

    def _grow(self, sequence: BatchSequence) -> None:
        old = self._pool_of[sequence]
        if sequence.length < old.capacity:
            return
        new = self._pool(sequence.length + 1)
        new.add(sequence)
        new.slot(sequence)[..., : sequence.length, :] = old.slot(sequence)[..., : sequence.length, :]
        self.close(sequence)
        self._pool_of[sequence] = new

    def _pool(self, length: int) -> SlotPool:
        capacity = slot_tokens(length)
        if capacity not in self._pools:
            self._pools[capacity] = SlotPool(self._shape, capacity)
        return self._pools[capacity]
