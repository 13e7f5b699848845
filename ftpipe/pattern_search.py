"""Search text with regular expressions from untrusted data, in bounded time and memory.

The Rust engine of pydantic-core runs in time linear in the text. It has no look-around and no back-references; patterns
that need them run on the ``regex`` package with a time limit. ``regex`` repeats groups when it compiles (a pattern of
50 characters takes gigabytes), so the size of the repeated pattern is estimated before.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_PATTERN_CHARACTERS = 2_000
MAX_REPEATED_SIZE = 2_000
"""Estimated size of a pattern, with its repetitions written out, that the ``regex`` package may compile."""
MAX_SEARCH_WORK = 10_000_000
"""Estimated size of the pattern times characters of the text; about 1 second on the linear engine."""
BACKTRACKING_TIMEOUT_SECONDS = 0.2

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(\d*)(,?)(\d*)\}|.", re.DOTALL)


class PatternLimitError(Exception):
    """A search would take, or has taken, too much time or memory."""


def is_valid_pattern(pattern: str) -> bool:
    """True if one of the engines can read the pattern, or if it is only too large to be run."""
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        return True
    try:
        _compile(pattern)
    except PatternLimitError:
        return True
    except ValueError:
        return False
    return True


def matches_pattern(pattern: str, text: str, *, allow_backtracking: bool = True) -> bool:
    """True if the pattern occurs somewhere in the text.

    Args:
        pattern: A regular expression.
        text: The text.
        allow_backtracking: Run patterns that the linear engine cannot run, up to the time limit.

    Raises:
        PatternLimitError: The search takes too long.
        ValueError: The pattern is not a regular expression.
    """
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise PatternLimitError(f"a pattern has more than {MAX_PATTERN_CHARACTERS:,} characters")
    if repeated_size(pattern) * len(text) > MAX_SEARCH_WORK:
        raise PatternLimitError("a pattern is too large for a text of this length")
    search, is_linear = _compile(pattern)
    if not (is_linear or allow_backtracking):
        raise PatternLimitError("a pattern with look-around is not run after others took too long")
    return search(text)


def repeated_size(pattern: str) -> int:
    """Estimated number of the pattern's parts after every ``{n,m}`` is written out m times."""
    groups, last = [0], 0
    for token in _TOKEN.finditer(pattern):
        if token[0] == "(":
            groups.append(0)
            last = 0
        elif token[0] == ")" and len(groups) > 1:
            last = max(1, groups.pop())
            groups[-1] += last
        elif token[2] is not None and (token[1] or token[3]):
            count = max(int(number[:9]) for number in (token[1], token[3]) if number)
            groups[-1] += last * max(0, count - 1)
            last *= max(1, count)
        else:
            last = 1
            groups[-1] += 1
    return sum(groups)


@lru_cache(maxsize=1024)
def _compile(pattern: str) -> tuple[Callable[[str], bool], bool]:
    """A search for the pattern on the engine that can run it, and whether it takes linear time."""
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    try:
        linear = SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex", strict=True))
    except SchemaError:
        return _compile_backtracking(pattern), False
    return linear.isinstance_python, True


def _compile_backtracking(pattern: str) -> Callable[[str], bool]:
    """A search on the ``regex`` package, which gives up after its time limit."""
    import regex

    if repeated_size(pattern) > MAX_REPEATED_SIZE:
        raise PatternLimitError("a pattern repeats too much")
    try:
        compiled = regex.compile(pattern, cache_pattern=False)
    except (regex.error, RecursionError, OverflowError) as exc:
        raise ValueError(f"{pattern[:40]!r} is not a regular expression") from exc

    def search(text: str) -> bool:
        try:
            return compiled.search(text, timeout=BACKTRACKING_TIMEOUT_SECONDS) is not None
        except TimeoutError as exc:
            raise PatternLimitError("a pattern takes too long") from exc

    return search
