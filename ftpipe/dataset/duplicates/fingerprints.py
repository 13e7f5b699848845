"""Hashes a record, its prompt and its answer, so that equal ones are found without comparing texts."""

from __future__ import annotations

from hashlib import sha256
from struct import Struct
from typing import Any

from ftpipe.canonical_json import canonical_json
from ftpipe.dataset.formats import DPO_KEYS
from ftpipe.dataset.record import DatasetRecord

_ODD, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1
"""To combine two hashes: the bits of the golden ratio, and 64 bits."""
_first = Struct(">Q24x").unpack


def hash64(data: bytes) -> int:
    """64 bits of SHA-256, which processors compute fast; not for security."""
    return _first(sha256(data).digest())[0]  # type: ignore[no-any-return]


def fingerprint_record(row: DatasetRecord) -> tuple[int, int, int]:
    """Hashes of the record, of its prompt and of its answer.

    The prompt is everything before the last answer; records with one prompt and two answers are in conflict.
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
    """The same for a record that has only messages, the last one an answer; each byte is hashed once."""
    prompt, answer = hash64(canonical_json(messages[:-1])), hash64(canonical_json(messages[-1]))
    return (prompt * _ODD + answer) & _MASK, prompt, answer


def fingerprint_pair(row: DatasetRecord) -> int:
    """Half a hash of the preferred and half of the other answer, so that a swapped pair is recognized."""
    preferred, other = (hash64(canonical_json(row.record.get(key))) for key in DPO_KEYS[1:])
    return preferred >> 32 << 32 | other >> 32
