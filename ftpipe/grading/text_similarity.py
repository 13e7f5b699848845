"""Measures of text similarity that OpenAI's graders name, each from 0 (nothing in common) to 1 (equal).

Words are runs of letters and digits, without regard to case. Two texts without words have similarity 1; if only one
has none, it is 0. BLEU and GLEU are sentence scores with n-grams up to four.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from functools import partial

MAX_ORDER = 4
_WORD = re.compile(r"\w+")

Grams = Counter[tuple[str, ...]]


def words(text: str) -> list[str]:
    """The words of a text."""
    return _WORD.findall(text.casefold())


def _grams(tokens: list[str], order: int) -> Grams:
    return Counter(tuple(tokens[start : start + order]) for start in range(len(tokens) - order + 1))


def edit(text: str, reference: str) -> float:
    """1 minus the edit distance in characters divided by the length of the longer text."""
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.normalized_similarity(text, reference)


def fuzzy_match(text: str, reference: str) -> float:
    """Rapidfuzz's ratio of the unchanged texts.

    Source: OpenAI's graders guide says "using rapidfuzz" but not which of its measures, read 2026-11-24.
    """
    from rapidfuzz import fuzz

    return float(fuzz.ratio(text, reference)) / 100


def rouge_n(text: str, reference: str, *, order: int) -> float:
    """F1 of the n-grams of ``order`` words."""
    mine, theirs = _grams(words(text), order), _grams(words(reference), order)
    if not mine or not theirs:
        return float(mine == theirs)
    return 2 * (mine & theirs).total() / (mine.total() + theirs.total())


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence of words.

    Source: C.-Y. Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004, with beta = 1.
    """
    from rapidfuzz.distance import LCSseq

    mine, theirs = words(text), words(reference)
    if not mine or not theirs:
        return float(mine == theirs)
    return 2 * LCSseq.similarity(mine, theirs) / (len(mine) + len(theirs))


def bleu(text: str, reference: str) -> float:
    """Geometric mean of n-gram precisions, smoothed above order one, with the brevity penalty."""
    mine, theirs = words(text), words(reference)
    if not mine or not theirs:
        return float(mine == theirs)
    logs = 0.0
    for order in range(1, MAX_ORDER + 1):
        grams = _grams(mine, order)
        matched = (grams & _grams(theirs, order)).total()
        # without add-one smoothing, one missing order would make every short text 0
        extra = 0 if order == 1 else 1
        if matched + extra == 0:
            return 0.0
        logs += math.log((matched + extra) / (grams.total() + extra))
    brevity = min(1.0, math.exp(1 - len(theirs) / len(mine)))
    return brevity * math.exp(logs / MAX_ORDER)


def gleu(text: str, reference: str) -> float:
    """The smaller of n-gram precision and recall over all orders."""
    mine: Grams = Counter()
    theirs: Grams = Counter()
    for order in range(1, MAX_ORDER + 1):
        mine += _grams(words(text), order)
        theirs += _grams(words(reference), order)
    if not mine or not theirs:
        return float(mine == theirs)
    return (mine & theirs).total() / max(mine.total(), theirs.total())


MEASURES: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    "rouge_l": rouge_l,
    **{f"rouge_{order}": partial(rouge_n, order=order) for order in range(1, 6)},
}
"""Name of a measure → function. ``cosine`` needs an embedding model and ``meteor`` a thesaurus; both are refused."""
