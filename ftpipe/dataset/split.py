"""Splits a dataset into training and validation: reproducible, without equal prompts on both sides, label by label."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from ftpipe.dataset.diagnosis import read_checked_lines
from ftpipe.dataset.duplicates.fingerprints import fingerprint_record
from ftpipe.dataset.file_context import FileContext
from ftpipe.dataset.formats import shape_of
from ftpipe.dataset.json_line import Line
from ftpipe.dataset.reader import iter_valid_lines
from ftpipe.dataset.record import DatasetRecord
from ftpipe.errors import DatasetError, UsageError
from ftpipe.output_files import check_outputs, open_output

MAX_LABELS = 50
MAX_LABEL_CHARACTERS = 40
MIN_PROMPTS_PER_LABEL = 2


class SplitSizes(NamedTuple):
    """Numbers of records, prompts and labels."""

    train: int
    validation: int
    groups: int
    """Different prompts."""
    labels: int
    """Labels with equal shares in both files; 0 if the answers are not labels."""


class SplitResult(NamedTuple):
    """The two files and their sizes."""

    train: Path
    validation: Path
    sizes: SplitSizes


def split(path: Path, *, fraction: float, seed: int, output_dir: Path, force: bool = False) -> SplitResult:
    """Write ``train.jsonl`` and ``validation.jsonl``; the lines and their order do not change.

    Args:
        path: The dataset.
        fraction: Share of the records for validation, between 0 and 1.
        seed: The same seed and file give the same split.
        output_dir: Folder for the two files; created if it does not exist.
        force: Replace the two files if they exist.

    Raises:
        UsageError: The fraction is not between 0 and 1, or one of the two files exists.
        DatasetError: A line is not a record, or there are fewer than two different prompts.
        LocalStateError: The files cannot be written.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"{fraction} is not a fraction between 0 and 1.", "Use for example --split 0.1.")
    train, validation = output_dir / "train.jsonl", output_dir / "validation.jsonl"
    check_outputs([("--output", train), ("--output", validation)], inputs=[path], force=force)
    groups, labels, total = _groups(path)
    if len(groups) < 2:
        raise DatasetError(f"{path.name} has {len(groups)} different prompt(s): nothing to split.", "Add examples.")
    chosen = choose_validation(groups, labels, fraction, total, random.Random(seed))  # noqa: S311  # reproducible, not secret
    validation_lines = {line for key in chosen for line in groups[key]}
    written = _write(path, validation_lines, train, validation, force)
    label_count = len(set(labels.values()))
    return SplitResult(train, validation, SplitSizes(*written, len(groups), label_count))


def _groups(path: Path) -> tuple[dict[int, list[int]], dict[int, str], int]:
    """Prompt → its lines; prompt → label if the answers are labels; and the number of records."""
    groups: dict[int, list[int]] = defaultdict(list)
    answers: dict[int, str] = {}
    total = 0
    for number, raw, record in read_checked_lines(path):
        shape = shape_of(record)
        row = DatasetRecord(Line(number, 0, raw), record, "chat" if shape == "messages" else shape, _NO_CONTEXT)
        prompt = fingerprint_record(row)[1] if row.lists else -number
        groups[prompt].append(number)
        answers.setdefault(prompt, label_of(record))
        total += 1
    distinct = set(answers.values())
    is_labelled = (
        "" not in distinct and 1 < len(distinct) <= MAX_LABELS and len(distinct) * MIN_PROMPTS_PER_LABEL <= len(groups)
    )
    return groups, answers if is_labelled else {}, total


_NO_CONTEXT = FileContext("", "openai", None, "", "chat")


def label_of(record: dict[str, Any]) -> str:
    """The last answer if it is short enough for a label; otherwise empty."""
    messages = record.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    content = last.get("content") if isinstance(last, dict) and last.get("role") == "assistant" else None
    text = content.strip() if isinstance(content, str) else ""
    return text if 0 < len(text) <= MAX_LABEL_CHARACTERS and "\n" not in text else ""


def choose_validation(
    groups: dict[int, list[int]], labels: dict[int, str], fraction: float, total: int, rng: random.Random
) -> set[int]:
    """The prompts for validation: about ``fraction`` of the records of each label, and at least one prompt."""
    strata: dict[str, list[int]] = defaultdict(list)
    for key in groups:
        strata[labels.get(key, "")].append(key)
    chosen: set[int] = set()
    size, target_size = 0, 0.0
    for label in sorted(strata):
        keys = strata[label]
        rng.shuffle(keys)
        # The rounding error of one label is carried over to the next.
        target_size += fraction * sum(len(groups[key]) for key in keys)
        for key in keys:
            if size + len(groups[key]) / 2 > target_size:
                continue
            chosen.add(key)
            size += len(groups[key])
    if not chosen:
        chosen.add(min(groups, key=lambda key: (len(groups[key]), groups[key])))
    if size >= total:
        chosen.discard(max(chosen, key=lambda key: (len(groups[key]), groups[key])))
    return chosen


def _write(path: Path, validation_lines: set[int], train: Path, validation: Path, force: bool) -> tuple[int, int]:
    counts = [0, 0]
    with open_output(train, force=force) as train_file, open_output(validation, force=force) as validation_file:
        for number, raw, _ in iter_valid_lines(path):
            is_validation = number in validation_lines
            (validation_file if is_validation else train_file).write(raw + b"\n")
            counts[is_validation] += 1
    return counts[0], counts[1]
