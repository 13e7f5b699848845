"""One row of a file under conversion: its objects, and which of their keys are read and which are left over."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Messages = list[dict[str, Any]]

MEANINGFUL_KEYS = frozenset(
    {
        *("weight", "weights", "sampleweight", "lossweight", "train", "trainable", "trainonturn", "training", "loss"),
        *("lossmask", "mask", "masked", "label", "labels", "ktotag", "desirable", "isgood", "parentid"),
        *("system", "systemprompt", "systeminstruction", "systemmessage", "preamble"),
        *("context", "contexts", "passage", "document", "documents", "history", "chathistory"),
        *("reasoning", "reasoningcontent", "thinking", "thought", "thoughts", "chainofthought", "cot", "complexcot"),
        *("rationale", "rejected", "rejectedresponse", "rejectedmessage", "rejectedmessages", "choices"),
        *("tools", "functions", "toolconfig", "functioncall", "toolcalls"),
        *("image", "images", "audio", "audios", "video", "videos"),
    }
)
"""Keys (as :func:`normalize_key` writes them) that change what is learnt: a row that has one cannot go without it."""
MISSING_WORDS = frozenset({"nan", "NaN", "None", "null", "NULL", "<NA>", "NaT"})
"""What pandas, JavaScript and databases write into the cell of a table when there is no value."""
MAX_KEY_CHARACTERS = 200
"""Part of a key that is compared."""
SYSTEM_KEYS = ("system", "systemprompt", "systeminstruction", "systemmessage", "preamble")


class SkipRow(Exception):
    """A row cannot become an example: column and reason."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column, self.reason = column, reason


class UnmappedKey(Exception):
    """A row has a key that changes what is learnt, and no place in the result: its name and the reason."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path)
        self.path, self.reason = path, reason


@dataclass(frozen=True)
class ConversionOptions:
    """What the caller decides about a conversion."""

    system: str = ""
    """System message for conversations that have none."""
    columns: tuple[str, str] | None = None
    """Names of the columns of question and answer."""
    has_header: bool = True
    """Whether the first row of a table names its columns; else their names are 1, 2, …"""
    purpose: str = ""
    """``chat`` or ``preference``; empty for what the file is for."""
    reasoning: str = ""
    """What becomes of reasoning: ``think`` writes it before the answer, ``drop`` leaves it out, empty refuses it."""
    ignored_keys: frozenset[str] = frozenset()
    """Keys that are left out although they change the meaning, as :func:`normalize_key` writes them."""
    keeps_nan: bool = False
    """Whether ``nan`` and ``None`` in a table are text."""
    encoding: str | None = None
    """Encoding of a text file; ``None`` to detect it."""
    sheet: str | None = None
    """Sheet of an Excel workbook; ``None`` for the only one that has rows."""


@lru_cache(maxsize=4096)
def normalize_key(key: str) -> str:
    r"""A key for comparison: ``System Prompt``, ``system_prompt`` and ``systemPrompt\n(optional)`` are the same."""
    return re.sub(r"[\s_-]+", "", re.sub(r"\([^)]*\)|\[[^\]]*\]", "", key[:MAX_KEY_CHARACTERS])).lower()


class Fields:
    """An object of a row, which remembers the keys that are read from it."""

    def __init__(self, value: dict[str, Any], path: str, options: ConversionOptions, has_missing_words: bool) -> None:
        self.value, self.path = value, path
        self.read: set[str] = set()
        self.ignored: set[str] = set()
        """Keys that are left out on purpose."""
        self._has_missing_words = has_missing_words
        self._keys: dict[str, str] = {}
        for key in value:
            name = normalize_key(key)
            if name not in options.ignored_keys:
                self._keys.setdefault(name, key)

    def is_filled(self, value: object) -> bool:
        """True unless the value says that there is none."""
        if isinstance(value, str):
            return bool(value.strip()) and not (self._has_missing_words and value.strip() in MISSING_WORDS)
        return value is not None and value != [] and value != {}

    def filled(self, *names: str) -> list[str]:
        """The keys, as the row writes them, that are filled, in the order of the names."""
        if self._keys.keys().isdisjoint(names):
            return []
        present = [self._keys[name] for name in names if name in self._keys]
        return [key for key in present if self.is_filled(self.value[key])]

    def first_filled(self, *names: str) -> str:
        """The first key that is filled; an empty string if none is."""
        return next(iter(self.filled(*names)), "")

    def find(self, *names: str) -> str:
        """The first key that is filled, else the first that is there, else an empty string."""
        if self._keys.keys().isdisjoint(names):
            return ""
        return next(iter([*self.filled(*names), *(self._keys[name] for name in names if name in self._keys)]))

    def get(self, *names: str) -> Any:  # noqa: ANN401  # any JSON value
        """The value of the first filled key; ``None`` if none is filled. The key counts as used."""
        key = self.first_filled(*names)
        return self.use(key) if key else None

    def use(self, key: str) -> Any:  # noqa: ANN401  # any JSON value
        """The value of a key that is there; the key counts as used."""
        self.read.add(key)
        return self.value[key]

    def path_of(self, key: str) -> str:
        """``messages[2].content``."""
        return f"{self.path}.{key}" if self.path else key


class Row:
    """A row, and what was read of it besides its messages."""

    def __init__(self, record: dict[str, Any], options: ConversionOptions, *, is_table: bool = False) -> None:
        self.options, self.is_table = options, is_table
        self.tools: list[Any] | None = None
        self.parallel_tool_calls: bool | None = None
        self.dropped: list[str] = []
        """Paths of values that were left out on purpose."""
        self._objects: list[Fields] = []
        self.fields = self.open(record, "")

    def open(self, value: dict[str, Any], path: str) -> Fields:
        """An object of the row; its keys are accounted for at the end."""
        has_missing_words = self.is_table and not self.options.keeps_nan and not path
        fields = Fields(value, path, self.options, has_missing_words)
        self._objects.append(fields)
        return fields

    def mark(self) -> int:
        """A place to go back to with :meth:`forget`."""
        return len(self._objects)

    def forget(self, mark: int) -> None:
        """Take back the objects opened since then."""
        del self._objects[mark:]

    def key_counts(self) -> tuple[Counter[str], Counter[str]]:
        """How often each key was used and ignored in this row.

        Raises:
            UnmappedKey: A key is left over that changes what is learnt.
        """
        used: Counter[str] = Counter()
        ignored: Counter[str] = Counter(map(_general_path, self.dropped))
        for fields in self._objects:
            for key, value in fields.value.items():
                if not fields.is_filled(value):
                    continue
                path, name = fields.path_of(key), normalize_key(key)
                if key in fields.read and key not in fields.ignored:
                    used[_general_path(path)] += 1
                elif is_meaningful(name, value) and name not in self.options.ignored_keys and key not in fields.ignored:
                    raise UnmappedKey(path, "has no place in the result")
                else:
                    ignored[_general_path(path)] += 1
        return used, ignored


def is_meaningful(name: str, value: object) -> bool:
    """True for a key that changes what is learnt; options in a list, or all texts, belong to the question."""
    if name == "functioncall":
        return isinstance(value, dict)  # else it is a parameter of a request
    if name == "options" and isinstance(value, dict):
        return all(isinstance(option, str) for option in value.values())  # else they are settings of a model
    return name in MEANINGFUL_KEYS or (name == "options" and isinstance(value, list))


@lru_cache(maxsize=4096)
def _general_path(path: str) -> str:
    return re.sub(r"\[\d+\]", "[]", path)


def text_of(row: Row, path: str, value: object) -> str:
    """A value as text, not changed by a character.

    Raises:
        SkipRow: It is missing, empty, or not text.
    """
    if value is None:
        raise SkipRow(path, "it is missing")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if not isinstance(value, str):
        raise SkipRow(path, f"it is {kind_of(value)}, not text")
    if not value.strip():
        raise SkipRow(path, "it is empty")
    if row.is_table and not row.options.keeps_nan and value.strip() in MISSING_WORDS:
        raise SkipRow(path, f"it is {value.strip()!r}, which stands for a missing value (--keep-nan keeps it as text)")
    return value


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    if isinstance(value, dict):
        return f"an object with the keys {', '.join(map(str, list(value)[:4]))}" if value else "an empty object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}"
    return "null" if value is None else f"a value of type {type(value).__name__}"
