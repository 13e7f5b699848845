"""How alike two texts are, by the measures that graders name; each from 0 (nothing in common) to 1 (the same).

Words are runs of letters and digits in lower case. BLEU and GLEU are sentence scores with n-grams up to four.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from functools import partial

from ftpipe.errors import MissingExtraError

_WORD = re.compile(r"\w+")
MAX_ORDER = 4

Grams = Counter[tuple[str, ...]]


def words(text: str) -> list[str]:
    """The words of a text."""
    return _WORD.findall(text.lower())


def _grams(tokens: list[str], order: int) -> Grams:
    return Counter(tuple(tokens[start : start + order]) for start in range(len(tokens) - order + 1))


def _f1(matched: int, of_text: int, of_reference: int) -> float:
    total = of_text + of_reference
    return 2 * matched / total if total else 0.0


def fuzzy_match(text: str, reference: str) -> float:
    """Edit similarity of the texts as they are."""
    try:
        from rapidfuzz import fuzz
    except ImportError as exc:
        message = "text similarity needs rapidfuzz"
        raise MissingExtraError(message, "pip install 'ftpipe[local]'") from exc
    return float(fuzz.ratio(text, reference)) / 100


def rouge_n(text: str, reference: str, *, order: int) -> float:
    """F1 of the n-grams that both have."""
    mine, theirs = _grams(words(text), order), _grams(words(reference), order)
    return _f1((mine & theirs).total(), mine.total(), theirs.total())


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence of words."""
    try:
        from rapidfuzz.distance import LCSseq
    except ImportError as exc:
        message = "text similarity needs rapidfuzz"
        raise MissingExtraError(message, "pip install 'ftpipe[local]'") from exc
    mine, theirs = words(text), words(reference)
    return _f1(int(LCSseq.similarity(mine, theirs)), len(mine), len(theirs))


def bleu(text: str, reference: str) -> float:
    """Geometric mean of n-gram precisions, smoothed above order one, with the penalty for short texts."""
    mine, theirs = words(text), words(reference)
    if not mine or not theirs:
        return 0.0
    logs = 0.0
    for order in range(1, MAX_ORDER + 1):
        grams = _grams(mine, order)
        matched = (grams & _grams(theirs, order)).total()
        # Add-one smoothing keeps one missing order from making every short text a zero.
        extra = 0 if order == 1 else 1
        if matched + extra == 0:
            return 0.0
        logs += math.log((matched + extra) / (grams.total() + extra))
    brevity = min(1.0, math.exp(1 - len(theirs) / len(mine)))
    return brevity * math.exp(logs / MAX_ORDER)


def gleu(text: str, reference: str) -> float:
    """The smaller of n-gram precision and recall over all orders together."""
    mine: Grams = Counter()
    theirs: Grams = Counter()
    for order in range(1, MAX_ORDER + 1):
        mine += _grams(words(text), order)
        theirs += _grams(words(reference), order)
    most = max(mine.total(), theirs.total())
    return (mine & theirs).total() / most if most else 0.0


METRICS: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    "rouge_l": rouge_l,
    **{f"rouge_{order}": partial(rouge_n, order=order) for order in range(1, 6)},
}
"""What is served; ``cosine`` needs an embedding model and ``meteor`` a thesaurus, so these two are refused."""
