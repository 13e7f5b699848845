"""Metrics of sameness: exact and normalised match, and what follows from labels."""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from ftpipe.errors import MissingExtraError
from ftpipe.grading import text_similarity as alike
from ftpipe.records.evaluation import Answer, Item

OTHER = "(other)"
"""Stands in a confusion table for every answer that is no wanted label."""

_FENCE = re.compile(r"\A```[\w-]*\n(.*?)\n?```\Z", re.DOTALL)
_WRAPPING = " \t\r\n\"'`*_.,;:!?“”‘’„«»"


def exact(item: Item, answer: Answer) -> float:
    """1 where the answer is the wanted text, blank edges aside."""
    return float(answer.text.strip() == item.expected.strip())


def normalised(item: Item, answer: Answer) -> float:
    """1 where the answer is the wanted text but for case, spacing, quotes and closing marks."""
    return float(normalise(answer.text) == normalise(item.expected))


def normalise(text: str) -> str:
    """The text without what a lenient reader overlooks: case, width, spacing, code fence, quotes, closing marks."""
    text = unicodedata.normalize("NFKC", text).strip()
    fenced = _FENCE.match(text)
    inner = fenced.group(1) if fenced else text
    return " ".join(inner.casefold().split()).strip(_WRAPPING)


def macro_f1(pairs: Iterable[tuple[str, str]]) -> float:
    """Mean F1 over the wanted labels, each weighing the same.

    Args:
        pairs: Wanted and answered label, both normalised. An answer that is no wanted label only misses; it opens no
            class of its own.
    """
    wanted: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for want, got in pairs:
        wanted[want] += 1
        answered[got] += 1
        right[want] += want == got
    if not wanted:
        return 0.0
    return sum(2 * right[label] / (wanted[label] + answered[label]) for label in wanted) / len(wanted)


def confusion(pairs: Sequence[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Wanted label → answered label → count; answers outside the wanted labels are gathered under ``(other)``."""
    labels = {want for want, _ in pairs}
    table: dict[str, dict[str, int]] = {label: {} for label in sorted(labels)}
    for want, got in pairs:
        column = got if got in labels else OTHER
        table[want][column] = table[want].get(column, 0) + 1
    return table


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
