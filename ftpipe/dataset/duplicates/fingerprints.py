"""Hashes of a record, of its prompt and of its answer: equal ones are found by them."""

from __future__ import annotations

from hashlib import sha256
from struct import Struct
from typing import Any

from ftpipe.canonical_json import canonical_json
from ftpipe.dataset.formats import DPO_KEYS
from ftpipe.dataset.record import DatasetRecord

_ODD, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1
"""Two hashes make a third by these: the golden ratio's bits, and 64 of them."""
_first = Struct(">Q24x").unpack


def hash64(data: bytes) -> int:
    """64 bits of SHA-256, which processors compute: for telling records apart, not for security."""
    return _first(sha256(data).digest())[0]  # type: ignore[no-any-return]


def fingerprint_record(row: DatasetRecord) -> tuple[int, int, int]:
    """Hashes of the record, of its prompt and of its answer.

    The prompt is what stands before the last answer; two records with one prompt and two answers contradict each other.
    """
    _, messages = row.lists[0]
    last = messages[-1] if type(messages) is list and messages else None
    if row.kind == "chat" and type(last) is dict and last.get("role") == "assistant":
        if len(row.record) == 1:
            return fingerprint_dialogue(messages)
        return hash64(canonical_json(row.record)), hash64(canonical_json(messages[:-1])), hash64(canonical_json(last))
    whole = hash64(canonical_json(row.record))
    if row.kind == "dpo" and type(messages) is list:
        return whole, hash64(canonical_json(messages)), fingerprint_pair(row)
    return whole, hash64(canonical_json(messages)), whole


def fingerprint_dialogue(messages: list[Any]) -> tuple[int, int, int]:
    """The same for a record that has nothing but messages, the last one an answer; each byte is hashed once."""
    prompt, answer = hash64(canonical_json(messages[:-1])), hash64(canonical_json(messages[-1]))
    return (prompt * _ODD + answer) & _MASK, prompt, answer


def fingerprint_pair(row: DatasetRecord) -> int:
    """Half a hash of the preferred and half of the other answer, so that a swapped pair shows."""
    preferred, other = (hash64(canonical_json(row.record.get(key))) for key in DPO_KEYS[1:])
    return preferred >> 32 << 32 | other >> 32
