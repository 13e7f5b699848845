"""Fingerprints of all records, kept in bounded memory: beyond a million records they wait in temporary files.

A fingerprint is four numbers of 64 bits: the record's line, and the hashes of the record, of its prompt and of its
answer. In a preference pair the answer is two halves: of the preferred one (upper) and of the other one (lower).
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
"""Places of these hashes in a fingerprint."""
_TOP = 60


def empty_buckets() -> list[array[int]]:
    """Room for the fingerprints of a part of a file."""
    return [array("Q") for _ in range(BUCKETS)]


def put(buckets: list[array[int]], line: int, record: int, prompt: int, answer: int) -> None:
    """Add a fingerprint to the bucket of its prompt: what is to be compared lies in one bucket."""
    buckets[prompt >> _TOP].extend((line, record, prompt, answer))


def shift_lines(flat: array[int], lines: int) -> array[int]:
    """Fingerprints that stand that many lines further down."""
    if lines:
        flat[::FIELDS] = array("Q", [line + lines for line in flat[::FIELDS]])
    return flat


class FingerprintStore:
    """The fingerprints of a whole file."""

    def __init__(self) -> None:
        self._buckets = empty_buckets()
        self._spilled: list[IO[bytes] | None] = [None] * BUCKETS
        self._held = 0

    def take(self, buckets: list[array[int]], first_line: int) -> None:
        """Add the fingerprints of a part whose lines begin behind ``first_line``."""
        for mine, theirs in zip(self._buckets, buckets, strict=True):
            mine += shift_lines(theirs, first_line)
            self._held += len(theirs) // FIELDS
        if self._held > MAX_RECORDS_IN_MEMORY:
            self._spill()

    def _spill(self) -> None:
        for number, bucket in enumerate(self._buckets):
            file = self._spilled[number]
            if file is None:
                file = self._spilled[number] = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the object
            bucket.tofile(file)
            del bucket[:]
        self._held = 0

    def bucket(self, number: int) -> array[int]:
        """The fingerprints of one bucket, one after the other, in order of line."""
        file = self._spilled[number]
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
