"""Read training rows, and decide which are computed together and in which order."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftpipe.errors import DatasetError
from ftpipe.modeling.chat_tokenizer import ChatTemplateError, ChatTokenizer, Example

BUCKET_BATCHES = 8
"""Batches that are sorted by length together: enough for little padding, few enough for a random order."""
MAX_NAMED_ROWS = 10
"""Rows that an error message names."""
MIN_SHARED_TOKENS = 8
"""A common prefix shorter than this is not worth computing once."""


@dataclass(frozen=True)
class TokenizedDataset:
    """The sequences of a file.

    Attributes:
        examples: In the order of the file.
        lines: 1-based line of each example.
        truncated_lines: Lines that were longer than the limit and lost their end.
        split_conversations: Conversations that became one sequence per turn.
    """

    examples: tuple[Example, ...]
    lines: tuple[int, ...]
    truncated_lines: tuple[int, ...] = ()
    split_conversations: int = 0

    @property
    def tokens(self) -> int:
        """All tokens, trained or not."""
        return sum(len(example.ids) for example in self.examples)


def iter_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and record of each line that is not blank.

    Not by jsonlines, which gives a line number only for errors.

    Raises:
        DatasetError: The file cannot be read, or a line is not a JSON object.
    """
    try:
        with path.open("rb") as file:
            for line, raw in enumerate(file, start=1):
                text = raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
                if text.strip():
                    yield line, _record(text, line)
    except OSError as exc:
        raise DatasetError(f"the file {path.name} cannot be read: {exc.strerror}", "upload it again") from exc


def _record(text: bytes, line: int) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError as exc:
        raise DatasetError(f"line {line} is not JSON: {exc}", "ftpipe prepare lists all errors of the file") from exc
    if not isinstance(record, dict):
        raise DatasetError(f"line {line} is not a JSON object", "ftpipe prepare lists all errors of the file")
    return record


def read_rows(path: Path, chat_tokenizer: ChatTokenizer, *, limit: int) -> TokenizedDataset:
    """Render, tokenize and mask every row of a chat file.

    Args:
        path: A JSONL file of chat records.
        chat_tokenizer: Renders with the base model's chat template.
        limit: Tokens per sequence; longer ones are truncated.

    Raises:
        DatasetError: Rows that cannot be trained on, with their lines (the first ten).
    """
    examples: list[Example] = []
    lines: list[int] = []
    truncated_lines: list[int] = []
    errors: list[str] = []
    split_before = chat_tokenizer.split_conversations
    for line, record in iter_rows(path):
        try:
            for example in chat_tokenizer.examples(record):
                truncated = example.truncate(limit)
                if len(truncated.ids) < len(example.ids):
                    truncated_lines.append(line)
                if truncated.trained_tokens == 0:
                    raise ChatTemplateError(f"its answer starts after {limit} tokens, where the row is truncated")
                examples.append(truncated)
                lines.append(line)
        except ChatTemplateError as exc:
            errors.append(f"line {line}: {exc.message}")
    check_rows(path, len(examples), errors, unit="conversations")
    return TokenizedDataset(
        tuple(examples),
        tuple(lines),
        tuple(dict.fromkeys(truncated_lines)),
        chat_tokenizer.split_conversations - split_before,
    )


def check_rows(path: Path, count: int, errors: Sequence[str], *, unit: str) -> None:
    """Refuse a file with rows that cannot be trained on, or without rows.

    Raises:
        DatasetError: Names the first rows, or says that there are none.
    """
    if errors:
        more = f"; and {len(errors) - MAX_NAMED_ROWS} more" if len(errors) > MAX_NAMED_ROWS else ""
        raise DatasetError("; ".join(errors[:MAX_NAMED_ROWS]) + more, "fix or remove these rows")
    if not count:
        raise DatasetError(f"the file {path.name} has no rows", f"give it at least ten {unit}")


def epoch_batches(lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Indices of the examples of each batch in one epoch.

    The rows are shuffled anew in each epoch, then sorted by length within windows of some batches, so that a batch has
    rows of similar length and little padding; then the batches are shuffled.
    """
    rng = random.Random(f"{seed}/{epoch}")  # noqa: S311 - an order of training, not a secret
    order = list(range(len(lengths)))
    rng.shuffle(order)
    window = batch_size * BUCKET_BATCHES
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        bucket = sorted(order[start : start + window], key=lambda index: lengths[index])
        batches += [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
    rng.shuffle(batches)
    return batches


def micro_batches(examples: Sequence[Example], max_tokens: int) -> list[list[Example]]:
    """Split a batch so that no part has more than ``max_tokens`` padded tokens; gradients are summed over parts."""
    parts: list[list[Example]] = []
    longest = 0
    for example in sorted(examples, key=lambda e: len(e.ids)):
        longest = max(longest, len(example.ids))
        if parts and longest * (len(parts[-1]) + 1) <= max_tokens:
            parts[-1].append(example)
        else:
            parts.append([example])
            longest = len(example.ids)
    return parts


def common_prefix_length(examples: Sequence[Example]) -> int:
    """Length of the prefix that all rows share and that can be computed once; 0 if it is too short.

    The prefix ends before the first position that predicts a label, so that each row still trains all of its labels.
    """
    if len(examples) < 2:
        return 0
    first = examples[0]
    limit = min(len(example.ids) for example in examples) - 1
    for example in examples:
        label = next(i for i, value in enumerate(example.labels) if value >= 0)
        limit = min(limit, label - 1)
    shared = 0
    while shared < limit and all(example.ids[shared] == first.ids[shared] for example in examples):
        shared += 1
    return shared if shared >= MIN_SHARED_TOKENS else 0
