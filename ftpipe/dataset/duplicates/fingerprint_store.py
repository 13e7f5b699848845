"""Stores the fingerprints of all records in bounded memory: beyond a million records in temporary files.

A fingerprint is four numbers of 64 bits: the record's line, and the hashes of the record, of its prompt and of its
answer. For a preference pair the hash of the answer has two halves: preferred (upper) and other answer (lower).
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator
from typing import IO

BUCKETS = 16
MAX_RECORDS_IN_MEMORY = 1_000_000
FIELDS = 4
RECORD, PROMPT = 1, 2
"""Index of these hashes in a fingerprint."""
_TOP = 60


def empty_buckets() -> list[array[int]]:
    """Buckets for the fingerprints of a part of a file."""
    return [array("Q") for _ in range(BUCKETS)]


def append(buckets: list[array[int]], line: int, record: int, prompt: int, answer: int) -> None:
    """Add a fingerprint to the bucket of its prompt, so that records with equal prompts are in one bucket."""
    buckets[prompt >> _TOP].extend((line, record, prompt, answer))


def shift_lines(flat: array[int], lines: int) -> array[int]:
    """The same fingerprints, that many lines further down."""
    if lines:
        flat[::FIELDS] = array("Q", [line + lines for line in flat[::FIELDS]])
    return flat


class FingerprintStore:
    """The fingerprints of a whole file."""

    def __init__(self) -> None:
        self._buckets = empty_buckets()
        self._files: list[IO[bytes] | None] = [None] * BUCKETS
        self._in_memory = 0

    def add(self, buckets: list[array[int]], first_line: int) -> None:
        """Add the fingerprints of a part that begins after line ``first_line``."""
        for own, others in zip(self._buckets, buckets, strict=True):
            own += shift_lines(others, first_line)
            self._in_memory += len(others) // FIELDS
        if self._in_memory > MAX_RECORDS_IN_MEMORY:
            self._move_to_files()

    def _move_to_files(self) -> None:
        for number, bucket in enumerate(self._buckets):
            file = self._files[number]
            if file is None:
                file = self._files[number] = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the object
            bucket.tofile(file)
            del bucket[:]
        self._in_memory = 0

    def bucket(self, number: int) -> array[int]:
        """The fingerprints of one bucket, in order of line."""
        file = self._files[number]
        if file is None:
            return self._buckets[number]
        file.seek(0)
        whole = array("Q", file.read())
        file.seek(0, 2)
        whole += self._buckets[number]
        return whole


def rows_of(flat: array[int]) -> Iterator[tuple[int, int, int, int]]:
    """Line, and hashes of record, prompt and answer, of each fingerprint."""
    numbers = iter(flat)
    return zip(numbers, numbers, numbers, numbers, strict=True)
