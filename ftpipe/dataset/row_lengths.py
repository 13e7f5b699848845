"""How long the rows of a training file are for a base model: counted with its tokenizer, or estimated without it."""

from __future__ import annotations

from dataclasses import replace
from heapq import nlargest
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from ftpipe.dataset.training_check import TrainingCheck, find_training_check
from ftpipe.modeling.chat_messages import ChatTemplateError
from ftpipe.records import Method, TokenStats
from ftpipe.training.batching import iter_lines
from ftpipe.training.estimate import JobData
from ftpipe.training.memory_settings import RowLengths

if TYPE_CHECKING:
    from ftpipe.modeling.chat_tokenizer import ChatTokenizer

MAX_COUNTED_ROWS = 1000
"""Rows that are counted with the base model's tokenizer, evenly over the file."""
LARGEST_ROWS = 50
"""Rows of the most bytes, which are counted as well."""


def read_job_data(path: Path, model: str, tokens: TokenStats, *, method: Method = Method.SUPERVISED) -> JobData:
    """The lengths of the rows of a file, as the trainer renders them.

    Args:
        path: A training file.
        model: The base model.
        tokens: The file's figures, which are used if the base model's tokenizer is not on this machine.
        method: Of preference pairs both answers are computed, and of reinforcement the prompts are known.

    Raises:
        DatasetError: The file cannot be read.
    """
    factor = 2 if method is Method.DPO else 1
    check = find_training_check(model)
    counted = _count(path, check, tokens.examples, method) if check is not None else None
    if counted is None:
        rows = RowLengths(max(1, tokens.max), tokens.trained / max(1, tokens.total), factor)
        return JobData(rows, tokens.examples, tokens.total)
    return counted


def _count(path: Path, check: TrainingCheck, examples: int, method: Method) -> JobData | None:
    """With the base model's own tokenizer; ``None`` if there is none, or no row can be rendered.

    The file is read twice: all its rows may need more memory than there is.
    """
    tokenizer = check.chat_tokenizer
    if tokenizer is None:
        return None
    sample = islice(iter_lines(path), 0, None, max(1, examples // MAX_COUNTED_ROWS))
    counts = [count for _, text in sample if (count := _tokens_of(tokenizer, text, method))]
    if not counts:
        return None
    lengths = [length for row, _ in counts for length in row]
    largest = nlargest(LARGEST_ROWS, (text for _, text in iter_lines(path)), key=len)
    longest = [max(count[0]) for text in largest if (count := _tokens_of(tokenizer, text, method))]
    trained = sum(part for _, part in counts)
    rows = RowLengths.of(lengths, trained, rows_per_example=2 if method is Method.DPO else 1)
    total = round(sum(lengths) * examples / len(counts))
    return JobData(replace(rows, longest=max([rows.longest, *longest])), examples, total)


def _tokens_of(tokenizer: ChatTokenizer, text: bytes, method: Method) -> tuple[list[int], int] | None:
    """Tokens of each sequence of a row, and how many are trained; ``None`` if it cannot be trained."""
    try:
        record = orjson.loads(text)
        if method is Method.REINFORCEMENT:
            return [len(tokenizer.prompt(record["messages"], record.get("tools")))], 0
        examples = tokenizer.pair(record) if method is Method.DPO else tokenizer.examples(record)
    except (ChatTemplateError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return [len(example.ids) for example in examples], sum(example.trained_tokens for example in examples)
