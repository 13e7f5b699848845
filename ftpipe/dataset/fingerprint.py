"""Hashes of a record, of its prompt and of its answer: equal ones are found by them."""

from __future__ import annotations

from hashlib import blake2b

from ftpipe.dataset.formats import DPO_KEYS
from ftpipe.dataset.parse import canonical
from ftpipe.dataset.rows import Row


def hash64(data: bytes) -> int:
    """64 bits of a BLAKE2 hash: for telling records apart, not for security."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def prints_of(row: Row) -> tuple[int, int, int]:
    """Hashes of the record, of its prompt and of its answer.

    The prompt is what stands before the last answer; two records with one prompt and two answers contradict each other.
    """
    whole = hash64(canonical(row.record))
    _, messages = row.lists[0]
    if type(messages) is not list:
        return whole, whole, whole
    if row.kind == "dpo":
        return whole, hash64(canonical(messages)), pair_print(row)
    last = messages[-1] if messages else None
    if row.kind == "chat" and type(last) is dict and last.get("role") == "assistant":
        return whole, hash64(canonical(messages[:-1])), hash64(canonical(last))
    return whole, hash64(canonical(messages)), whole


def pair_print(row: Row) -> int:
    """Half a hash of the preferred and half of the other answer, so that a swapped pair shows."""
    preferred, other = (hash64(canonical(row.record.get(key))) for key in DPO_KEYS[1:])
    return preferred >> 32 << 32 | other >> 32
