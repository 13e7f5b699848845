"""Metrics of likeness for free text: ROUGE-L and edit similarity by rapidfuzz, chrF by sacrebleu if installed."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

from ftpipe import similarity as alike
from ftpipe.errors import MissingExtraError
from ftpipe.records.evaluation import Answer, Item


def rouge_l(item: Item, answer: Answer) -> float:
    """F1 of the longest common subsequence of words, case aside."""
    return alike.rouge_l(answer.text, item.expected)


def edit(item: Item, answer: Answer) -> float:
    """1 minus the edit distance in characters over the longer text's length."""
    return alike.edit(answer.text.strip(), item.expected.strip())


def chrf(item: Item, answer: Answer) -> float:
    """chrF2 by sacrebleu, as a share: character n-grams to 6, recall weighing twice.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    score: float = _chrf().sentence_score(answer.text, [item.expected]).score
    return score / 100


def chrf_signature() -> str:
    """What has to be said with a chrF value so that others can reproduce it."""
    return str(_chrf().get_signature())


def has_chrf() -> bool:
    """True where sacrebleu is installed."""
    return importlib.util.find_spec("sacrebleu") is not None


@cache
def _chrf() -> Any:  # noqa: ANN401  # sacrebleu's class, loaded late
    if not has_chrf():
        raise MissingExtraError("chrF needs sacrebleu, which is not installed.", "pip install 'ftpipe[eval]'")
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
