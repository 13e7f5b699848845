"""How much memory the keys and values of answers take that are computed together, and how many answers that are.

The decoder has a pool of slots for sequences of about the same length: a power of two of slots, whose length is a power
of two of tokens. A sequence that outgrows its pool moves to the next one.
"""

from __future__ import annotations

MIN_SLOT_TOKENS = 256
MAX_KEY_VALUE_BYTES = 2 << 30
"""Of the sequences that are open at a time, at their full length, if more than one is open."""
DEFAULT_MAX_NUM_SEQS = 32
"""Answers that are computed at the same time; on two CPU cores more tokens per second are not to be had with more."""


def slot_tokens(length: int) -> int:
    """The length of the slot of a sequence."""
    return max(MIN_SLOT_TOKENS, 1 << (length - 1).bit_length())


def open_sequences(length: int, bytes_per_token: float) -> int:
    """How many sequences of a full length are open at a time, if there are enough of them."""
    fitting = int(MAX_KEY_VALUE_BYTES // (slot_tokens(length) * bytes_per_token))
    return max(1, min(DEFAULT_MAX_NUM_SEQS, fitting))


def peak_tokens(sequences: int, prompt: int, length: int) -> int:
    """Tokens for which pools have room at most, while so many sequences grow from a prompt to their full length.

    While a pool takes in the sequences of the pool before, that one is still there, and a pool that grows is there
    twice for a moment.

    Args:
        sequences: How many are open at a time.
        prompt: Tokens of each at its beginning.
        length: Tokens of each at its end.
    """
    slots = 1 << (sequences - 1).bit_length()
    first, last = slot_tokens(prompt), slot_tokens(length)
    growing = slots // 2 * last
    before = 0 if first == last else slots * last // 2  # as many slots, half as long
    return slots * last + growing + before
