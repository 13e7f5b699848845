"""Compares records by their fingerprints: duplicates and contradictions in a file, overlap of two files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ftpipe.dataset.duplicates.fingerprint_store import BUCKETS, FIELDS, PROMPT, RECORD, FingerprintStore, rows_of

MAX_SAMPLES, MAX_SAMPLES_IF_ALL = 1_000, 250_000
"""Lines retained of each kind, and if every finding is requested; all are counted."""
_HALF = 32
_LOW = (1 << _HALF) - 1


@dataclass(slots=True)
class LineSample:
    """Lines of one kind: the first ones, and how many there are."""

    first: list[tuple[int, int]] = field(default_factory=list)
    """(line, line of the record that it is compared with)."""
    number: int = 0
    max_samples: int = MAX_SAMPLES

    def add(self, line: int, other: int) -> None:
        """Count a line, and retain it if there are few yet."""
        self.number += 1
        if len(self.first) < self.max_samples:
            self.first.append((line, other))

    def with_weights(self) -> Iterator[tuple[int, int, int]]:
        """(line, other line, number of findings it stands for); the last one includes those not retained."""
        for index, (line, other) in enumerate(self.first, 1):
            yield line, other, 1 if index < len(self.first) else 1 + self.number - len(self.first)


@dataclass(slots=True)
class Comparison:
    """Result of comparing all records of a file."""

    duplicates: LineSample = field(default_factory=LineSample)
    conflicts: LineSample = field(default_factory=LineSample)
    swapped: LineSample = field(default_factory=LineSample)


def compare(fingerprints: FingerprintStore, *, max_samples: int = MAX_SAMPLES) -> Comparison:
    """Compare all records of a file with each other."""
    result = Comparison(*(LineSample(max_samples=max_samples) for _ in range(3)))
    for number in range(BUCKETS):
        records: dict[int, int] = {}
        prompts: dict[int, tuple[int, int]] = {}
        answer_pairs: dict[tuple[int, int], int] = {}
        flat = fingerprints.bucket(number)
        times = Counter(flat[PROMPT::FIELDS])
        if len(times) * FIELDS == len(flat):
            continue
        for line, record, prompt, answer in rows_of(flat):
            if times[prompt] == 1:
                continue
            first_record = records.setdefault(record, line)
            if first_record != line:
                result.duplicates.add(line, first_record)
                continue
            first, first_answer = prompts.setdefault(prompt, (line, answer))
            if first == line:
                continue
            if answer != first_answer:
                result.conflicts.add(line, first)
            answer_pairs.setdefault((prompt, first_answer), first)
            swapped = (answer & _LOW) << _HALF | answer >> _HALF
            other = answer_pairs.get((prompt, swapped))
            if other is not None and swapped != answer:
                result.swapped.add(line, other)
            answer_pairs.setdefault((prompt, answer), line)
    for sample in (result.duplicates, result.conflicts, result.swapped):
        sample.first.sort()
    return result


def overlap(train: FingerprintStore, validation: FingerprintStore) -> list[tuple[int, int, str]]:
    """Validation records that the training file has too: (validation line, training line, ``record`` or ``prompt``)."""
    result: list[tuple[int, int, str]] = []
    for number in range(BUCKETS):
        bucket = validation.bucket(number)
        if not bucket:
            continue
        hashes = {*bucket[RECORD::FIELDS], *bucket[PROMPT::FIELDS]}
        records: dict[int, int] = {}
        prompts: dict[int, int] = {}
        for line, record, prompt, _ in rows_of(train.bucket(number)):
            if record in hashes:
                records.setdefault(record, line)
            if prompt in hashes:
                prompts.setdefault(prompt, line)
        for line, record, prompt, _ in rows_of(bucket):
            if record in records:
                result.append((line, records[record], "record"))
            elif prompt in prompts:
                result.append((line, prompts[prompt], "prompt"))
    return sorted(result)
