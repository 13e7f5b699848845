"""What the rendering of a chat template may still do: steps, time, and the sizes of what it makes.

Steps alone do not help: one call of Python's own functions can take hours or all memory. So before each call the size
of its result, and of the texts that it walks through, is estimated. A list that contains one list twice, which contains
one list twice and so on, is small in memory; its size here is that of its text.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any

from jinja2.utils import Namespace

from ftpipe.modeling.chat_messages import ChatTemplateError

MAX_TEMPLATE_CHARACTERS = 1_000_000
MAX_STEPS = 1_000_000
"""Passes of loops, calls and filters in one rendering; a conversation of 1,000 messages takes some 10,000."""
MAX_CPU_SECONDS = 20.0
"""Processor time of one rendering."""
MAX_CHARACTERS = 64_000_000
"""Length of a text, also of all output together, and of the text of a list."""
MAX_TOTAL_CHARACTERS = 256_000_000
"""Length of all texts together that one rendering makes, so at most 1 GB at four bytes a character."""
MAX_NUMBER = 1_000_000
"""Largest number that a call or a filter takes, for example as a width, and largest length of a list."""
MAX_COMPARISONS = 1_000_000_000
"""Length of a text times that of a text which is looked for at each of its positions."""
ITEM_SIZE = 8
"""What a number or an item adds to the size of a list."""
ITEMS_BETWEEN_CLOCK_READINGS = 4096

_CONTAINERS = (list, tuple, set, frozenset, Mapping, KeysView, ValuesView, ItemsView)
_DIGITS = re.compile(r"\d+")
_QUADRATIC_METHODS = frozenset({"strip", "lstrip", "rstrip", "rfind", "rindex", "rsplit", "rpartition"})


class Limits(threading.local):
    """What the rendering in this thread may still do."""

    def start(self) -> None:
        """Begin a rendering."""
        self._steps = 0
        self._output = 0
        self._total = 0
        self._deadline = time.thread_time() + MAX_CPU_SECONDS
        self._sizes: dict[int, tuple[object, int]] = {}
        self._known_items = 0

    def step(self) -> None:
        """Count a pass of a loop, a call or a filter."""
        self._steps += 1
        if self._steps > MAX_STEPS or time.thread_time() > self._deadline:
            raise too_much(f"takes more than {MAX_STEPS} steps or {MAX_CPU_SECONDS:.0f} s")

    def count_passes(self, iterable: Iterable[Any]) -> Iterator[Any]:
        """The items; each is a step."""
        for item in iterable:
            self.step()
            yield item

    def to_text(self, value: object) -> str:
        """A value as text."""
        self.size(value)
        return str(value)

    def add_output(self, value: object) -> str:
        """A value as a part of the output."""
        text = self.to_text(value)
        self._output += len(text)
        if self._output > MAX_CHARACTERS:
            raise too_much(f"writes more than {MAX_CHARACTERS} characters")
        return text

    def join(self, parts: Iterable[object]) -> str:
        """Values as one text."""
        listed = list(parts)
        self.size(listed)
        text = "".join(map(str, listed))
        self.checked_result(text)
        return text

    def checked_result(self, value: Any) -> Any:  # noqa: ANN401  # whatever a template computes
        """A value that a template has made."""
        if isinstance(value, str):
            check_length(len(value))
            self._total += len(value)
            if self._total > MAX_TOTAL_CHARACTERS:
                raise too_much(f"makes texts of more than {MAX_TOTAL_CHARACTERS} characters")
        elif isinstance(value, bytes | bytearray):
            raise too_much("makes bytes")
        elif isinstance(value, list | tuple | dict) and len(value) > MAX_NUMBER:
            raise too_much(f"makes a list of more than {MAX_NUMBER} items")
        return value

    def check_value(self, value: object) -> None:
        """Raise an error if it takes too long to walk through a value, to compare or to hash it."""
        if not isinstance(value, str | Namespace):
            self.size(value)

    def size(self, value: object) -> int:
        """About the number of characters of a value's text.

        Raises:
            ChatTemplateError: They are too many.
        """
        if isinstance(value, str):
            return len(value)
        if isinstance(value, Namespace):
            raise too_much("uses a namespace as a value")
        if not isinstance(value, _CONTAINERS):
            return ITEM_SIZE
        if self._known_items > MAX_NUMBER:
            self._sizes.clear()
            self._known_items = 0
        sizes, pending, seen = self._sizes, [value], 0
        while pending:
            current = pending[-1]
            if id(current) in sizes:
                pending.pop()
                continue
            parts = _parts(current)
            seen += 1 + len(parts)
            if seen > ITEMS_BETWEEN_CLOCK_READINGS:
                seen = 0
                self.step()
            unknown = {id(each): each for each in parts if isinstance(each, _CONTAINERS) and id(each) not in sizes}
            if unknown:
                pending += unknown.values()
                continue
            pending.pop()
            total = ITEM_SIZE + sum(
                sizes[id(each)][1] if isinstance(each, _CONTAINERS) else ITEM_SIZE + self.size(each) for each in parts
            )
            check_length(total)
            # Nothing in the sandbox changes a list; kept, so that its id is not used again.
            sizes[id(current)] = (current, total)
            self._known_items += 1 + len(parts)
        return sizes[id(value)][1]


def _parts(value: Any) -> list[Any]:  # noqa: ANN401  # a container
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, ItemsView):  # its pairs are other objects each time
        return [part for pair in value for part in pair]
    return list(value)


def too_much(what: str) -> ChatTemplateError:
    """The error for a template that exceeds a limit."""
    return ChatTemplateError(f"the chat template {what}", "choose another base model, or a shorter conversation")


def check_length(characters: int) -> None:
    """Raise an error if a text is, or would be, too long."""
    if characters > MAX_CHARACTERS:
        raise too_much(f"makes a text of more than {MAX_CHARACTERS} characters")


def check_numbers(values: Iterable[Any]) -> None:
    """Raise an error if a number is too large for an argument."""
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise too_much(f"uses a number above {MAX_NUMBER}")


def check_format(pattern: str, marker: str, values: Any, limits: Limits) -> None:  # noqa: ANN401
    """Estimate the length of a formatted text: each field can be as wide as the numbers say, and repeat any value."""
    parts = (
        list(values.values())
        if isinstance(values, Mapping)
        else list(values)
        if isinstance(values, tuple)
        else [values]
    )
    check_numbers(parts)
    widths = [int(digits[:9]) for digits in _DIGITS.findall(pattern)]
    if widths and max(widths) > MAX_NUMBER:
        raise too_much(f"uses a number above {MAX_NUMBER}")
    largest = max((abs(each) if isinstance(each, int) else limits.size(each) for each in parts), default=0)
    check_length(len(pattern) + sum(widths) + pattern.count(marker) * largest)


def check_text_call(text: str, name: str, arguments: list[Any], limits: Limits) -> None:
    """Estimate the work and the result of a method of ``str``, or of the filter of the same name."""
    texts = [each for each in arguments if isinstance(each, str)]
    if name in _QUADRATIC_METHODS and len(text) * max(map(len, texts), default=0) > MAX_COMPARISONS:
        raise too_much(f"compares more than {MAX_COMPARISONS} characters")
    if name == "replace" and len(texts) > 1:
        check_length(len(text) + (text.count(texts[0]) if texts[0] else len(text) + 1) * len(texts[1]))
    elif name == "join" and arguments:
        items = arguments[0]
        check_length(limits.size(items) + len(text) * len(items))
    elif name == "expandtabs":
        check_length(len(text) + text.count("\t") * next((each for each in arguments if isinstance(each, int)), 8))
    elif name == "translate":
        check_length(len(text) * max(map(limits.size, arguments), default=0))
    elif name in ("format", "format_map"):
        check_format(text, "{", tuple(arguments), limits)
    elif name in ("split", "rsplit", "splitlines"):
        pieces = text.count(texts[0]) if texts and texts[0] else sum(map(text.count, " \t\n\r"))
        if pieces > MAX_NUMBER:
            raise too_much(f"makes a list of more than {MAX_NUMBER} items")
