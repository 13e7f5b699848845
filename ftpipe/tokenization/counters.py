"""Token counters: tiktoken as the reference, gigatoken if it is installed, a pure-Python one for small files.

All are exact. If an engine is known to differ from tiktoken (see ``patterns.DISPUTED``), tiktoken counts the text; if
tiktoken itself would fail (tens of thousands of spaces in a row), the pure-Python counter does.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Protocol

from ftpipe.tokenization.bpe_ranks import RankTable, cached_rank_file
from ftpipe.tokenization.patterns import DISPUTED, LONG_WHITESPACE, PATTERNS, SPECIAL
from ftpipe.tokenization.pure_python import PurePythonCounter

if TYPE_CHECKING:
    import tiktoken

SMALL_BYTES = 768 * 1024
"""The pure-Python counter counts a smaller text before another counter is built."""

EngineName = Literal["auto", "pure-python", "tiktoken", "gigatoken"]


class Counter(Protocol):
    """Counts the tokens of texts exactly as tiktoken does."""

    name: str

    def count(self, texts: list[str]) -> list[int]:
        """Tokens of each text; special-token text counts as ordinary text."""

    def count_undisputed(self, texts: list[str]) -> list[int]:
        """The same for texts that are known to contain no character of ``patterns.DISPUTED``."""


class TiktokenCounter:
    """The reference: tiktoken, built from the bundled rank table."""

    name = "tiktoken"

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._tokenizer = open_tiktoken(encoding)
        self._pure_python: PurePythonCounter | None = None

    def count(self, texts: list[str]) -> list[int]:
        """Tokens of each text."""
        return [self._count_one(text) for text in texts]

    count_undisputed = count

    def _count_one(self, text: str) -> int:
        if len(text) >= 20_000 and LONG_WHITESPACE.search(text):
            self._pure_python = self._pure_python or PurePythonCounter(self._encoding)
            return self._pure_python.count([text])[0]
        return len(self._tokenizer.encode_ordinary(text))


_tiktoken = lru_cache(maxsize=2)(TiktokenCounter)
"""Building one takes a third of a second, as it does for gigatoken."""
_SCHEMES = {"o200k_base": "o200k", "cl100k_base": "gpt4"}
"""gigatoken's names of the patterns."""


class GigatokenCounter:
    """gigatoken's compiled core: several times as fast; tiktoken counts texts with disputed characters."""

    name = "gigatoken"

    def __init__(self, encoding: str) -> None:
        from gigatoken.gigatoken_rs import BPETokenizer

        self._encoding = encoding
        with cached_rank_file(encoding) as ranks:
            self._tokenizer = BPETokenizer.from_tiktoken(ranks, _SCHEMES[encoding], None)

    def count(self, texts: list[str]) -> list[int]:
        """Tokens of each text."""
        counts = self.count_undisputed(texts)
        for i, text in enumerate(texts):
            if not text.isascii() and DISPUTED.search(text):
                counts[i] = _tiktoken(self._encoding).count([text])[0]
        return counts

    def count_undisputed(self, texts: list[str]) -> list[int]:
        """Tokens of each text."""
        # One by one: its batch calls create a Python integer for every token, or import a data frame library.
        return list(map(len, map(self._tokenizer.encode, texts)))


_gigatoken = lru_cache(maxsize=2)(GigatokenCounter)


class SmallTextCounter:
    """The pure-Python counter; tiktoken counts texts with disputed characters."""

    name = "pure-python"

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._pure_python = PurePythonCounter(encoding)

    def count(self, texts: list[str]) -> list[int]:
        """Tokens of each text."""
        return [
            (_tiktoken(self._encoding) if has_disputed_characters(t) else self._pure_python).count([t])[0]
            for t in texts
        ]

    count_undisputed = count


def has_disputed_characters(text: str) -> bool:
    """True if regular expression engines of different Unicode versions could split the text differently.

    Besides the known characters of Unicode 17 this is any character that this Python does not know: a later version
    of Unicode can define it as a letter.
    """
    if text.isascii():
        return False
    if DISPUTED.search(text):
        return True
    import unicodedata

    return any(unicodedata.category(char) == "Cn" for char in set(text))


def open_tiktoken(encoding: str) -> tiktoken.Encoding:
    """A tiktoken encoding built from the bundled ranks, without network access."""
    import tiktoken

    return tiktoken.Encoding(
        encoding,
        pat_str=PATTERNS[encoding],
        mergeable_ranks=RankTable(encoding).all_ranks(),
        special_tokens=SPECIAL[encoding],
    )


def has_gigatoken() -> bool:
    """True if a version of gigatoken is installed whose differences from tiktoken are known (0.10)."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("gigatoken").startswith("0.10.")
    except PackageNotFoundError:
        return False


def open_counter(encoding: str, *, size: int, engine: EngineName = "auto") -> Counter:
    """The counter that is fastest for this size.

    Args:
        encoding: ``o200k_base`` or ``cl100k_base``.
        size: Approximate number of bytes to count.
        engine: A fixed choice for tests and comparisons.
    """
    if engine == "pure-python" or (engine == "auto" and size < SMALL_BYTES):
        return SmallTextCounter(encoding)
    if engine == "gigatoken" or (engine == "auto" and has_gigatoken()):
        return _gigatoken(encoding)
    return _tiktoken(encoding)
