"""Text metrics: exact and normalized match, labels, and text similarity."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from ftpipe.errors import MissingExtraError
from ftpipe.grading import text_similarity
from ftpipe.grading.answer_agreement import normalize
from ftpipe.records.evaluation import Answer, Item

OTHER = "(other)"
"""Column of a confusion table for answers that are not an expected label."""


def exact(item: Item, answer: Answer) -> float:
    """1 if the answer is the expected text, apart from leading and trailing white space."""
    return float(answer.text.strip() == item.expected.strip())


def normalized(item: Item, answer: Answer) -> float:
    """1 if the answer is the expected text, apart from case, white space, quotes and final punctuation."""
    return float(normalize(answer.text) == normalize(item.expected))


def macro_f1(pairs: Iterable[tuple[str, str]]) -> float:
    """Unweighted mean of F1 over the expected labels.

    Args:
        pairs: Expected and answered label, both normalized. An answer that is not an expected label is an error, but
            not a class.
    """
    expected: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    correct: Counter[str] = Counter()
    for label, answer in pairs:
        expected[label] += 1
        answered[answer] += 1
        correct[label] += label == answer
    if not expected:
        return 0.0
    return sum(2 * correct[label] / (expected[label] + answered[label]) for label in expected) / len(expected)


def confusion(pairs: Sequence[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Expected label → answered label → count; answers that are not an expected label count as ``(other)``."""
    labels = {label for label, _ in pairs}
    table: dict[str, dict[str, int]] = {label: {} for label in sorted(labels)}
    for label, answer in pairs:
        column = answer if answer in labels else OTHER
        table[label][column] = table[label].get(column, 0) + 1
    return table


def rouge_l(item: Item, answer: Answer) -> float:
    """F1 of the longest common subsequence of words, ignoring case."""
    return text_similarity.rouge_l(answer.text, item.expected)


def edit(item: Item, answer: Answer) -> float:
    """1 minus the edit distance in characters divided by the length of the longer text."""
    return text_similarity.edit(answer.text.strip(), item.expected.strip())


def chrf(item: Item, answer: Answer) -> float:
    """chrF2 of sacrebleu from 0 to 1: character n-grams up to 6, recall weighted twice.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    score: float = _chrf().sentence_score(answer.text, [item.expected]).score
    return score / 100


def has_chrf() -> bool:
    """Whether sacrebleu is installed."""
    return importlib.util.find_spec("sacrebleu") is not None


@cache
def _chrf() -> Any:  # noqa: ANN401  # sacrebleu's class, loaded late
    if not has_chrf():
        raise MissingExtraError("chrF needs sacrebleu, which is not installed", "pip install 'ftpipe[eval]'")
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
