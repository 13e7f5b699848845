"""Turns one line into a record: fast where it is clean, and with every fault named where it is not."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cached_property
from typing import Any, TypeAlias

Json: TypeAlias = Any
"""``None``, a boolean, a number, a string, a list of such values, or a dictionary from strings to them."""


MAX_DEPTH = 64
MAX_SAFE_INTEGER = 2**53
MAX_DIGITS = 300
"""Of a whole number; with more it is beyond every double. Source: IEEE 754."""

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Line:
    """One line of a dataset: its bytes, the record in it, and on request everything that is wrong with it."""

    def __init__(self, number: int, offset: int, raw: bytes) -> None:
        self.number = number
        self.offset = offset
        self.raw = raw
        self.record: Any = None
        self.parsed = False
        """True where the strict parser took the line."""

    @cached_property
    def text(self) -> str | None:
        """The line as text; ``None`` where it is not UTF-8."""
        try:
            return self.raw.decode("utf-8")
        except UnicodeDecodeError:
            return None

    @cached_property
    def bad_byte(self) -> int | None:
        """Place of the first byte that is not UTF-8."""
        try:
            self.raw.decode("utf-8")
        except UnicodeDecodeError as exc:
            return exc.start
        return None

    @cached_property
    def depth(self) -> int:
        """How deep brackets nest outside strings."""
        level = deepest = 0
        for match in _BRACKET.finditer(_STRING.sub(b"", self.raw)):
            level += 1 if match.group() in b"[{" else -1
            deepest = max(deepest, level)
        return deepest

    @cached_property
    def details(self) -> TolerantParse:
        """What a tolerant parser sees; only asked for on lines that are suspicious."""
        return parse_tolerantly(self)


class TolerantParse:
    """The findings of the tolerant parser on one line."""

    def __init__(self) -> None:
        self.value: Any = None
        self.ok = False
        """True where even the tolerant parser took the line."""
        self.error = ""
        self.column: int | None = None
        """1-based column of the first fault."""
        self.extra_data = False
        """True where a second value follows the first."""
        self.duplicates: list[tuple[str, str, int]] = []
        """Path, key and number of times of each key that stands more than once in one object."""
        self.constants: list[str] = []
        """NaN, Infinity and numbers that overflow, as written."""
        self.surrogates: list[str] = []
        """JSON paths of strings with unpaired surrogates."""


def parse_tolerantly(line: Line) -> TolerantParse:
    """Parse a line with the standard library, collecting what strict parsers refuse or hide."""
    seen = TolerantParse()
    text = line.text
    if text is None or line.depth > 900:
        return seen

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) == len(items):
            return found
        counts = Counter(key for key, _ in items)
        return DictWithDuplicateKeys(found, [(key, n) for key, n in counts.items() if n > 1])

    def constant(word: str) -> int:
        # 1 stands in for it, so that the other rules find nothing more to say about the place.
        seen.constants.append(word)
        return 1

    def number(word: str) -> float:
        value = float(word)
        if value in (float("inf"), float("-inf")):
            seen.constants.append(word)
            return 1
        return value

    def integer(word: str) -> int:
        if len(word) < MAX_DIGITS:
            return int(word)
        seen.constants.append(f"{word[:12]}… with {len(word):,} digits")
        return 1

    decoder = json.JSONDecoder(
        object_pairs_hook=pairs, parse_constant=constant, parse_float=number, parse_int=integer, strict=False
    )
    try:
        seen.value, end = decoder.raw_decode(text.lstrip(" \t\r\n\ufeff"))
    except json.JSONDecodeError as exc:
        skipped = len(text) - len(text.lstrip(" \t\r\n\ufeff"))
        seen.error, seen.column = exc.msg, exc.pos + skipped + 1
        return seen
    rest = text.lstrip(" \t\r\n\ufeff")[end:].strip()
    if rest:
        seen.error, seen.extra_data = "a second value follows the first", True
        seen.column = len(text) - len(rest) + 1
        return seen
    seen.ok = True
    seen.surrogates = [path for path, value in strings_of(seen.value) if _LONE_SURROGATE.search(value)]
    seen.duplicates = repeated_keys(seen.value)
    return seen


class DictWithDuplicateKeys(dict[str, Any]):
    """An object some of whose keys stood more than once."""

    def __init__(self, members: dict[str, Any], repeated: list[tuple[str, int]]) -> None:
        super().__init__(members)
        self.repeated = repeated


def repeated_keys(value: Json) -> list[tuple[str, str, int]]:
    """Path, key and times of every repeated key inside a value."""
    found: list[tuple[str, str, int]] = []
    waiting = [("", value)]
    while waiting:
        where, item = waiting.pop()
        if isinstance(item, DictWithDuplicateKeys):
            found += [(f"{where}.{key}" if where else key, key, times) for key, times in item.repeated]
        if isinstance(item, dict):
            waiting += [(f"{where}.{key}" if where else key, inner) for key, inner in item.items()]
        elif isinstance(item, list):
            waiting += [(f"{where}[{i}]", inner) for i, inner in enumerate(item)]
    return found


def strings_of(value: Json, path: str = "") -> list[tuple[str, str]]:
    """Every string inside a JSON value with its path, keys included."""
    found: list[tuple[str, str]] = []
    waiting = [(path, value)]
    while waiting:
        where, item = waiting.pop()
        if isinstance(item, str):
            found.append((where, item))
        elif isinstance(item, dict):
            for key, inner in item.items():
                found.append((where, key))
                waiting.append((f"{where}.{key}" if where else key, inner))
        elif isinstance(item, list):
            waiting += [(f"{where}[{i}]", inner) for i, inner in enumerate(item)]
    return found
