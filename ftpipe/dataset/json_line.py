"""One line of a dataset, and a tolerant parser that names every fault in it."""

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
"""Digits of an integer; with more it is larger than every double. Source: IEEE 754."""

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
_LINE_BREAK = re.compile(r"[ \t]*[\r\n][ \t\r\n]*")
_LINE_BREAK_AT_BRACKET = re.compile(rf"(?<=[\[{{]){_LINE_BREAK.pattern}|{_LINE_BREAK.pattern}(?=[\]}}])")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Line:
    """One line of a dataset: its bytes, its record, and on demand everything that is wrong with it."""

    def __init__(self, number: int, offset: int, raw: bytes) -> None:
        self.number = number
        self.offset = offset
        self.raw = raw
        self.record: Any = None
        self.parsed = False
        """True if the strict parser accepted the line."""

    @cached_property
    def text(self) -> str | None:
        """The line as text; ``None`` if it is not UTF-8."""
        try:
            return self.raw.decode("utf-8")
        except UnicodeDecodeError:
            return None

    @cached_property
    def bad_byte(self) -> int | None:
        """Index of the first byte that is not UTF-8."""
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
    def tolerant_parse(self) -> TolerantParse:
        """Result of the tolerant parser; only computed for suspicious lines."""
        return parse_tolerantly(self)


class TolerantParse:
    """Result of the tolerant parser for one line."""

    def __init__(self) -> None:
        self.value: Any = None
        self.ok = False
        """True if the tolerant parser accepted the line."""
        self.error = ""
        self.column: int | None = None
        """1-based column of the first fault."""
        self.extra_data = False
        """True if a second value follows the first."""
        self.duplicates: list[tuple[str, str, int]] = []
        """Path, key and number of occurrences of each key that an object has more than once."""
        self.constants: list[str] = []
        """NaN, Infinity and numbers that overflow, as written."""
        self.surrogates: list[str] = []
        """JSON paths of strings with unpaired surrogates."""


def parse_tolerantly(line: Line) -> TolerantParse:
    """Parse a line with the standard library, and collect what strict parsers reject or hide."""
    result = TolerantParse()
    text = line.text
    if text is None or line.depth > 900:
        return result

    def build_object(members: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(members)
        if len(value) == len(members):
            return value
        counts = Counter(key for key, _ in members)
        return DictWithDuplicateKeys(value, [(key, n) for key, n in counts.items() if n > 1])

    def read_constant(word: str) -> float:
        result.constants.append(word)
        return float(word)

    def parse_float(word: str) -> float:
        value = float(word)
        if value in (float("inf"), float("-inf")):
            result.constants.append(word)
        return value

    def parse_integer(word: str) -> int:
        if len(word) < MAX_DIGITS:
            return int(word)
        result.constants.append(f"{word[:12]}… with {len(word):,} digits")
        return int(word[:MAX_DIGITS])

    decoder = json.JSONDecoder(
        object_pairs_hook=build_object,
        parse_constant=read_constant,
        parse_float=parse_float,
        parse_int=parse_integer,
        strict=False,
    )
    try:
        result.value, end = decoder.raw_decode(text.lstrip(" \t\r\n\ufeff"))
    except json.JSONDecodeError as exc:
        skipped = len(text) - len(text.lstrip(" \t\r\n\ufeff"))
        result.error, result.column = exc.msg, exc.pos + skipped + 1
        return result
    rest = text.lstrip(" \t\r\n\ufeff")[end:].strip()
    if rest:
        result.error, result.extra_data = "a second value follows the first", True
        result.column = len(text) - len(rest) + 1
        return result
    result.ok = True
    result.surrogates = [path for path, value in strings_of(result.value) if _LONE_SURROGATE.search(value)]
    result.duplicates = duplicate_keys(result.value)
    return result


class DictWithDuplicateKeys(dict[str, Any]):
    """An object in which some keys occurred more than once."""

    def __init__(self, members: dict[str, Any], duplicates: list[tuple[str, int]]) -> None:
        super().__init__(members)
        self.duplicates = duplicates


def duplicate_keys(value: Json) -> list[tuple[str, str, int]]:
    """Path, key and number of occurrences of every duplicate key inside a value."""
    keys: list[tuple[str, str, int]] = []
    stack = [("", value)]
    while stack:
        item_path, item = stack.pop()
        if isinstance(item, DictWithDuplicateKeys):
            keys += [(f"{item_path}.{key}" if item_path else key, key, count) for key, count in item.duplicates]
        if isinstance(item, dict):
            stack += [(f"{item_path}.{key}" if item_path else key, inner) for key, inner in item.items()]
        elif isinstance(item, list):
            stack += [(f"{item_path}[{i}]", inner) for i, inner in enumerate(item)]
    return keys


def strings_of(value: Json, path: str = "") -> list[tuple[str, str]]:
    """Every string inside a JSON value with its path, keys included."""
    strings: list[tuple[str, str]] = []
    stack = [(path, value)]
    while stack:
        item_path, item = stack.pop()
        if isinstance(item, str):
            strings.append((item_path, item))
        elif isinstance(item, dict):
            for key, inner in item.items():
                strings.append((item_path, key))
                stack.append((f"{item_path}.{key}" if item_path else key, inner))
        elif isinstance(item, list):
            stack += [(f"{item_path}[{i}]", inner) for i, inner in enumerate(item)]
    return strings


def split_json_values(text: str) -> list[str]:
    """The texts of the values of a JSON array, of pretty-printed JSON or of several values on a line, each on one line.

    Nothing else changes: keys that are there twice and all digits of numbers stay. Empty if it is not JSON.
    """
    decoder = json.JSONDecoder()
    parts: list[str] = []
    position, end = 0, len(text)
    if _is_one_array(text):
        position, end = text.index("[") + 1, text.rindex("]")
    while True:
        while position < end and text[position] in " \t\r\n,":
            position += 1
        if position >= end:
            return parts
        try:
            _, after = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            return []
        # A line break is never inside a string, so neither is the whitespace around it.
        parts.append(_LINE_BREAK.sub(" ", _LINE_BREAK_AT_BRACKET.sub("", text[position:after])))
        position = after


def _is_one_array(text: str) -> bool:
    """True for a text that is one JSON array."""
    try:
        return isinstance(json.loads(text), list)
    except (ValueError, RecursionError):
        return False


def parse_json_values(text: str) -> list[Any]:
    """The records of a JSON array, of pretty-printed JSON or of several values on a line; empty if it is not JSON."""
    decoder = json.JSONDecoder()
    values: list[Any] = []
    position = 0
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        if position >= len(text):
            break
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):  # a number of more than 4,300 digits is a ValueError
            return []
        values.append(value)
    if len(values) == 1 and isinstance(values[0], list):
        return values[0]
    return values
