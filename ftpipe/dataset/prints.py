"""Fingerprints of all records, kept in bounded memory: beyond a million records they wait in temporary files."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator
from typing import IO, NamedTuple

BUCKETS = 16
HELD_RECORDS = 1_000_000
_FIELDS = 4
_TOP = 60


class Print(NamedTuple):
    """One record's fingerprint."""

    line: int
    record: int
    """64-bit hash of the canonical record."""
    prompt: int
    answer: int
    """In a preference pair the upper half is the preferred answer's hash, the lower half the other one's."""


class Prints:
    """Fingerprints in buckets by prompt: what is to be compared lies in one bucket."""

    def __init__(self) -> None:
        self._buckets = [array("Q") for _ in range(BUCKETS)]
        self._spilled: list[IO[bytes] | None] = [None] * BUCKETS
        self._held = 0

    def take(self, flat: array[int], first_line: int) -> None:
        """Add the fingerprints of a part whose lines begin behind ``first_line``."""
        buckets = self._buckets
        for at in range(0, len(flat), _FIELDS):
            prompt = flat[at + 2]
            buckets[prompt >> _TOP].extend((flat[at] + first_line, flat[at + 1], prompt, flat[at + 3]))
        self._held += len(flat) // _FIELDS
        if self._held > HELD_RECORDS:
            self._spill()

    def _spill(self) -> None:
        for number, bucket in enumerate(self._buckets):
            file = self._spilled[number]
            if file is None:
                file = self._spilled[number] = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the object
            bucket.tofile(file)
            del bucket[:]
        self._held = 0

    def bucket(self, number: int) -> Iterator[Print]:
        """The fingerprints of one bucket, in order of line."""
        file = self._spilled[number]
        if file is not None:
            file.seek(0)
            while piece := file.read(_FIELDS * 8 * 65_536):
                yield from _rows(array("Q", piece))
            file.seek(0, 2)
        yield from _rows(self._buckets[number])


def _rows(flat: array[int]) -> Iterator[Print]:
    for at in range(0, len(flat), _FIELDS):
        yield Print(*flat[at : at + _FIELDS])
