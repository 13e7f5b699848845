"""Memory of keys and values: what is planned for it is what the pools take."""

from __future__ import annotations

import random

import pytest
import torch

from ftpipe.inference.batch_model import BatchSequence
from ftpipe.inference.key_value_slots import KeyValueShape, KeyValueSlots, SlotPool
from ftpipe.modeling import key_value_sizes
from ftpipe.modeling.key_value_sizes import open_sequences, peak_tokens

SHAPE = KeyValueShape(1, 1, 1, torch.float32, torch.device("cpu"))


class Meter:
    """The most tokens for which pools have room, also while a pool is copied into a larger one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.peak = 0
        self.slots = KeyValueSlots(SHAPE, 1 << 40)
        allocate = SlotPool._allocate

        def measured(pool: SlotPool, slots: int) -> torch.Tensor:
            tensor = allocate(pool, slots)
            self.peak = max(self.peak, (self.slots.bytes + tensor.nbytes) // SHAPE.bytes_per_token)
            return tensor

        monkeypatch.setattr(SlotPool, "_allocate", measured)


def grow(slots: KeyValueSlots, prompts: list[int], lengths: list[int]) -> None:
    """Sequences that are opened together, decoded together, and closed at their lengths."""
    sequences = [
        BatchSequence(adapter=None, prompt=tuple([0] * prompt), max_length=length)
        for prompt, length in zip(prompts, lengths, strict=True)
    ]
    for sequence in sequences:
        slots.open(sequence)
        sequence.length = len(sequence.prompt)
    while sequences:
        for _ in slots.groups(sequences):
            pass
        for sequence in list(sequences):
            sequence.length += 1
            if sequence.length >= sequence.max_length:
                slots.close(sequence)
                sequences.remove(sequence)


@pytest.mark.parametrize("sequences", [1, 2, 5, 8, 20, 32])
@pytest.mark.parametrize(("prompt", "length"), [(10, 40), (200, 300), (250, 256), (300, 1100), (60, 700)])
def test_peak_of_equal_answers_is_as_planned(
    monkeypatch: pytest.MonkeyPatch, sequences: int, prompt: int, length: int
) -> None:
    """Never more than planned, and not much less if the number is a power of two."""
    meter, planned = Meter(monkeypatch), peak_tokens(sequences, prompt, length)
    grow(meter.slots, [prompt] * sequences, [length] * sequences)
    assert meter.peak <= planned
    if sequences & (sequences - 1) == 0:
        assert meter.peak >= 0.7 * planned


@pytest.mark.parametrize("seed", range(8))
def test_peak_of_different_answers_is_at_most_the_planned(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    numbers = random.Random(seed)
    count = numbers.choice([3, 7, 16, 31])
    prompts = [numbers.randrange(1, 600) for _ in range(count)]
    lengths = [prompt + numbers.randrange(1, 600) for prompt in prompts]
    meter = Meter(monkeypatch)
    grow(meter.slots, prompts, lengths)
    assert meter.peak <= peak_tokens(count, min(prompts), max(lengths))
    assert meter.slots.bytes == 0


def test_open_sequences_are_those_that_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the decoder decides; one always is."""
    monkeypatch.setattr(key_value_sizes, "MAX_KEY_VALUE_BYTES", 9 * 512 * SHAPE.bytes_per_token)
    slots, opened = KeyValueSlots(SHAPE, key_value_sizes.MAX_KEY_VALUE_BYTES), 0
    while slots.has_room(400):
        slots.open(BatchSequence(adapter=None, prompt=(0,), max_length=400))
        opened += 1
    assert open_sequences(400, SHAPE.bytes_per_token) == opened == 9
    assert open_sequences(10, SHAPE.bytes_per_token) == 18
    assert open_sequences(10**6, SHAPE.bytes_per_token) == 1
    assert open_sequences(1, 1) == key_value_sizes.DEFAULT_MAX_NUM_SEQS
