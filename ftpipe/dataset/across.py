"""What only shows when records are compared with each other: duplicates, contradictions, overlap of two files."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

FIELDS = 4
"""Numbers per record in ``Part.prints``: line, record, prompt, answer."""


def rows_of(prints: array[int]) -> Iterator[tuple[int, int, int, int]]:
    """(line, record hash, prompt hash, answer hash) of every record."""
    return zip(*(iter(prints),) * FIELDS, strict=True)


def overlap(train: array[int], validation: array[int]) -> list[tuple[int, int, str]]:
    """Validation records that the training file has too: (validation line, training line, ``record`` or ``prompt``)."""
    wanted_records = {record for _, record, _, _ in rows_of(validation)}
    wanted_prompts = {prompt for _, _, prompt, _ in rows_of(validation)}
    records: dict[int, int] = {}
    prompts: dict[int, int] = {}
    for line, record, prompt, _ in rows_of(train):
        if record in wanted_records:
            records.setdefault(record, line)
        if prompt in wanted_prompts:
            prompts.setdefault(prompt, line)
    found = []
    for line, record, prompt, _ in rows_of(validation):
        if record in records:
            found.append((line, records[record], "record"))
        elif prompt in prompts:
            found.append((line, prompts[prompt], "prompt"))
    return found
