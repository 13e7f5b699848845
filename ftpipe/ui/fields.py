"""The fields of forms and URLs: texts as they were typed, and numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from ftpipe.errors import UsageError


@dataclass(frozen=True)
class FormFields:
    """Fields as they were typed, so that they can be shown again; an empty field is one that is not there."""

    NAMES: ClassVar[tuple[str, ...]] = ()
    MAX_CHARACTERS: ClassVar[int] = 0
    """Of a field; the rest is left out."""
    values: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, form: Mapping[str, Any]) -> Self:
        """The fields of a form or a query."""
        texts = {name: form.get(name, "") for name in cls.NAMES}
        typed = {name: text.strip() for name, text in texts.items() if isinstance(text, str)}
        return cls({name: text[: cls.MAX_CHARACTERS] for name, text in typed.items() if text})

    def __getitem__(self, name: str) -> str:
        return self.values.get(name, "")


def whole_number(text: str, name: str, *, low: int = 0, high: int = 10**12) -> int | None:
    """A number from a field; ``None`` if it is empty.

    Raises:
        UsageError: It is not a number in this range.
    """
    value = _number(text, name, low, high, int)
    return None if value is None else int(value)


def decimal_number(text: str, name: str, *, low: float = 0, high: float = 1e6) -> float | None:
    """The same for a number that need not be whole."""
    return _number(text, name, low, high, float)


def _number(text: str, name: str, low: float, high: float, kind: Callable[[str], float]) -> float | None:
    clean = text.strip().replace(",", "")
    if not clean:
        return None
    try:
        value = kind(clean)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise UsageError(
            f"{name} is {text[:40]!r}, which is not a number from {low:g} to {high:g}", "correct the field"
        )
    return value
