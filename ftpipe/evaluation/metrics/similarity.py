"""Metrics of likeness for free text: ROUGE-L and edit similarity by rapidfuzz, chrF by sacrebleu if installed."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from functools import cache
from typing import Any

from ftpipe.errors import MissingExtraError
from ftpipe.records.evaluation import Answer, Item

_WORDS = re.compile(r"\w+")


def rouge_l(item: Item, answer: Answer) -> float:
    """F1 of the longest common subsequence of words, case aside.

    Source: C.-Y. Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004, with beta = 1.
    """
    return rouge_l_texts(item.expected, answer.text)


def rouge_l_texts(expected: str, got: str) -> float:
    """ROUGE-L of two texts; 1 where neither has a word."""
    from rapidfuzz.distance import LCSseq

    wanted, answered = _words(expected), _words(got)
    if not wanted or not answered:
        return float(wanted == answered)
    return 2 * LCSseq.similarity(wanted, answered) / (len(wanted) + len(answered))


def edit(item: Item, answer: Answer) -> float:
    """1 minus the edit distance in characters over the longer text's length."""
    return edit_texts(item.expected.strip(), answer.text.strip())


def edit_texts(expected: str, got: str) -> float:
    """Edit similarity of two texts; 1 where both are empty."""
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.normalized_similarity(expected, got)


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


def _words(text: str) -> list[str]:
    return _WORDS.findall(text.casefold())


def rouge_n_texts(expected: str, got: str, size: int) -> float:
    """F1 of the runs of ``size`` words that two texts share; 1 where neither has one."""
    wanted, answered = _runs(expected, size), _runs(got, size)
    if not wanted or not answered:
        return float(wanted == answered)
    return 2 * (wanted & answered).total() / (wanted.total() + answered.total())


def _runs(text: str, size: int) -> Counter[tuple[str, ...]]:
    words = _words(text)
    return Counter(tuple(words[start : start + size]) for start in range(len(words) - size + 1))
