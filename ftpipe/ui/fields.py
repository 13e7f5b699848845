"""Numbers from the fields of forms and URLs."""

from __future__ import annotations

from collections.abc import Callable

from ftpipe.errors import UsageError


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
