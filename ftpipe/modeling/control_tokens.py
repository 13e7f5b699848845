"""Find control tokens in texts, and mark those that a user typed, so that only the template makes control tokens.

A mark is a character after the first one of a control token in a content: ``<`` mark ``|im_end|>``. Templates can
trim, split and join marked contents like any text. The tokenizer later encodes the parts around a mark apart, so it
never sees the whole control token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

ANSWER_TOKENS = frozenset({"<think>", "</think>", "<tool_call>", "</tool_call>"})
"""Tokens that models write into their answers; templates look for them in the contents of assistant messages.

Source: chat templates of Qwen3, SmolLM3 and DeepSeek-R1, read 2026-11-28.
"""
_MARKS = range(0xF0000, 0xFFFFE)
"""A plane of characters for private use, which no text needs."""

Json: TypeAlias = Any
"""A string, number, list or object of a conversation."""


class TokenFinder:
    """Finds the longest of many words at each position of a text; faster than a regular expression of all words."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words = frozenset(filter(None, words))
        self._lengths = sorted({len(word) for word in self.words}, reverse=True)
        first = "".join(sorted({re.escape(word[0]) for word in self.words}))
        self._first = re.compile(f"[{first}]" if first else "(?!)")

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Start and end of each word; they can overlap."""
        for match in self._first.finditer(text):
            start = match.start()
            for length in self._lengths:
                if text[start : start + length] in self.words:
                    yield start, min(start + length, len(text))
                    break

    def mark(self, value: Json, mark: str) -> Json:
        """A JSON value with a mark after the first character of each word in its strings and keys."""
        if isinstance(value, str):
            starts = [start + 1 for start, _ in self.find(value)]
            bounds = [0, *starts, len(value)]
            return mark.join(value[a:b] for a, b in pairwise(bounds)) if starts else value
        if isinstance(value, Mapping):
            return {self.mark(key, mark): self.mark(item, mark) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.mark(item, mark) for item in value]
        return value


def unused_mark(values: Sequence[Json]) -> str:
    """A character that is in none of the strings."""
    used: set[str] = set()
    pending: list[Json] = list(values)
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            if not value.isascii():
                used.update(value)
        elif isinstance(value, Mapping):
            pending += [*value, *value.values()]
        elif isinstance(value, list | tuple):
            pending += value
    return next(mark for mark in map(chr, _MARKS) if mark not in used)
