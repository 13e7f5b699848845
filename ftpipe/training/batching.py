"""Read training rows, and decide which are computed together and in which order."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ftpipe.atomic_files import read_json, write_json
from ftpipe.errors import DatasetError
from ftpipe.modeling.chat_tokenizer import ChatTemplateError, ChatTokenizer, Example

BUCKET_BATCHES = 8
"""Batches that are sorted by length together: enough for little padding, few enough for a random order."""
MAX_NAMED_ROWS = 10
"""Rows that an error message names."""
MIN_SHARED_TOKENS = 8
"""A common prefix shorter than this is not worth computing once."""

T = TypeVar("T")


@dataclass(frozen=True)
class BadRows:
    """What happens to rows that cannot be trained on.

    Attributes:
        skip: Whether they are left out; otherwise they are an error.
        known: Line → reason, of rows that the check of the file has found to be bad; only used with ``skip``.
    """

    skip: bool = False
    known: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, role: str, *, skip: bool) -> BadRows:
        """With the reasons that ``write_bad_rows`` wrote, if there are any."""
        known = (read_json(path) or {}).get(role, {}) if skip else {}
        return cls(skip, {int(line): str(reason) for line, reason in known.items()})


REFUSE_BAD_ROWS = BadRows()


def write_bad_rows(path: Path, rows: Mapping[str, Mapping[int, str]]) -> None:
    """Write role (``training`` or ``validation``) → line → reason."""
    write_json(path, {role: {str(line): text for line, text in known.items()} for role, known in rows.items()})


@dataclass(frozen=True)
class TokenizedDataset:
    """The sequences of a file.

    Attributes:
        examples: In the order of the file.
        lines: 1-based line of each example.
        truncated_lines: Lines that were longer than the limit and lost their end.
        split_conversations: Conversations that became one sequence per turn.
        skipped: Line and reason of each row that was left out.
    """

    examples: tuple[Example, ...]
    lines: tuple[int, ...]
    truncated_lines: tuple[int, ...] = ()
    split_conversations: int = 0
    skipped: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """All tokens, trained or not."""
        return sum(len(example.ids) for example in self.examples)


def iter_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number and content of each line that is not blank.

    Not by jsonlines, which gives a line number only for errors.

    Raises:
        DatasetError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for line, raw in enumerate(file, start=1):
                text = raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
                if text.strip():
                    yield line, text
    except OSError as exc:
        raise DatasetError(f"the file {path.name} cannot be read: {exc.strerror}", "upload it again") from exc


def convert_rows(
    path: Path, convert: Callable[[int, dict[str, Any]], T], *, unit: str, bad_rows: BadRows
) -> tuple[list[tuple[int, T]], tuple[str, ...]]:
    """What a function makes of each row, with the line, and line and reason of the rows that were left out.

    Args:
        path: A JSONL file.
        convert: Called with line and record; a ``ChatTemplateError`` is the reason why the row is bad.
        unit: What a row is, for messages: ``conversation`` or ``pair``.
        bad_rows: What happens to bad rows.

    Raises:
        DatasetError: Rows that cannot be trained on, with their lines (the first ten), or no rows at all.
    """
    results: list[tuple[int, T]] = []
    errors: list[str] = []
    for line, text in iter_lines(path):
        try:
            if bad_rows.skip and line in bad_rows.known:
                raise ChatTemplateError(bad_rows.known[line])
            results.append((line, convert(line, _record(text))))
        except (ChatTemplateError, DatasetError) as exc:
            errors.append(f"line {line}: {exc.message}")
        except (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError):
            errors.append(f"line {line}: it is not a {unit}")
    check_rows(path, len(results), [] if bad_rows.skip and results else errors, unit=f"{unit}s")
    return results, tuple(errors)


def _record(text: bytes) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError as exc:
        raise DatasetError(f"it is not JSON: {exc}") from exc
    if not isinstance(record, dict):
        raise DatasetError("it is not a JSON object")
    return record


def read_rows(
    path: Path, chat_tokenizer: ChatTokenizer, *, limit: int, bad_rows: BadRows = REFUSE_BAD_ROWS
) -> TokenizedDataset:
    """Render, tokenize and mask every row of a chat file.

    Args:
        path: A JSONL file of chat records.
        chat_tokenizer: Renders with the base model's chat template.
        limit: Tokens per sequence. Longer ones lose their end; a row is bad if that is a part of an answer.
        bad_rows: What happens to rows that cannot be trained on.

    Raises:
        DatasetError: Rows that cannot be trained on, with their lines (the first ten).
    """
    truncated_lines: list[int] = []
    split_before = chat_tokenizer.split_conversations

    def convert(line: int, record: dict[str, Any]) -> list[Example]:
        examples = chat_tokenizer.examples(record)
        for example in examples:
            if example.length_with_answers > limit:
                raise ChatTemplateError(
                    f"its answer ends after {example.length_with_answers:,} tokens, and {limit:,} are trained"
                )
        if any(len(example.ids) > limit for example in examples):
            truncated_lines.append(line)
        return [example.truncate(limit) for example in examples]

    rows, skipped = convert_rows(path, convert, unit="conversation", bad_rows=bad_rows)
    pairs = [(line, example) for line, examples in rows for example in examples]
    return TokenizedDataset(
        tuple(example for _, example in pairs),
        tuple(line for line, _ in pairs),
        tuple(truncated_lines),
        chat_tokenizer.split_conversations - split_before,
        skipped,
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
