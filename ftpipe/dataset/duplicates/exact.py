"""What only shows when records are compared with each other: duplicates, contradictions, overlap of two files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ftpipe.dataset.duplicates.fingerprint_store import BUCKETS, FIELDS, PROMPT, RECORD, FingerprintStore, rows_of

KEEP, KEEP_EVERY = 1_000, 250_000
"""Places kept of each kind, and where every finding is asked for; all are counted."""
_HALF = 32
_LOW = (1 << _HALF) - 1


@dataclass(slots=True)
class LineSample:
    """Places of one kind: the first ones, and how many there are."""

    first: list[tuple[int, int]] = field(default_factory=list)
    """(line, line of the record that it is compared with)."""
    number: int = 0
    keep: int = KEEP

    def add(self, line: int, other: int) -> None:
        """Count a place, and keep it while there is room."""
        self.number += 1
        if len(self.first) < self.keep:
            self.first.append((line, other))

    def with_weights(self) -> Iterator[tuple[int, int, int]]:
        """(line, other line, number of findings it stands for); the last one stands for those that were not kept."""
        for index, (line, other) in enumerate(self.first, 1):
            yield line, other, 1 if index < len(self.first) else 1 + self.number - len(self.first)


@dataclass(slots=True)
class Comparison:
    """What the comparison of all records of a file found."""

    duplicates: LineSample = field(default_factory=LineSample)
    conflicts: LineSample = field(default_factory=LineSample)
    swapped: LineSample = field(default_factory=LineSample)


def compare(prints: FingerprintStore, *, keep: int = KEEP) -> Comparison:
    """Compare all records of a file with each other, keeping so many places of each kind."""
    found = Comparison(LineSample(keep=keep), LineSample(keep=keep), LineSample(keep=keep))
    for number in range(BUCKETS):
        records: dict[int, int] = {}
        prompts: dict[int, tuple[int, int]] = {}
        pairs: dict[tuple[int, int], int] = {}
        flat = prints.bucket(number)
        times = Counter(flat[PROMPT::FIELDS])
        if len(times) * FIELDS == len(flat):
            continue
        for line, record, prompt, answer in rows_of(flat):
            if times[prompt] == 1:
                continue
            known = records.setdefault(record, line)
            if known != line:
                found.duplicates.add(line, known)
                continue
            first, given = prompts.setdefault(prompt, (line, answer))
            if first == line:
                continue
            if answer != given:
                found.conflicts.add(line, first)
            pairs.setdefault((prompt, given), first)
            turned = (answer & _LOW) << _HALF | answer >> _HALF
            other = pairs.get((prompt, turned))
            if other is not None and turned != answer:
                found.swapped.add(line, other)
            pairs.setdefault((prompt, answer), line)
    for places in (found.duplicates, found.conflicts, found.swapped):
        places.first.sort()
    return found


def overlap(train: FingerprintStore, validation: FingerprintStore) -> list[tuple[int, int, str]]:
    """Validation records that the training file has too: (validation line, training line, ``record`` or ``prompt``)."""
    found: list[tuple[int, int, str]] = []
    for number in range(BUCKETS):
        held = validation.bucket(number)
        if not held:
            continue
        wanted = {*held[RECORD::FIELDS], *held[PROMPT::FIELDS]}
        records: dict[int, int] = {}
        prompts: dict[int, int] = {}
        for line, record, prompt, _ in rows_of(train.bucket(number)):
            if record in wanted:
                records.setdefault(record, line)
            if prompt in wanted:
                prompts.setdefault(prompt, line)
        for line, record, prompt, _ in rows_of(held):
            if record in records:
                found.append((line, records[record], "record"))
            elif prompt in prompts:
                found.append((line, prompts[prompt], "prompt"))
    return sorted(found)
