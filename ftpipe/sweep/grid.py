"""The grid of a sweep: axes as they are typed, and every combination of their values."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

from pydantic import ValidationError

from ftpipe.errors import UsageError
from ftpipe.records import Hyperparameters

Value = int | float | str
GridPoint = dict[str, Value]

MAX_TRIALS = 64
LOCAL_HYPERPARAMETERS = ("lora_r", "lora_alpha", "lora_dropout", "learning_rate")
"""Hyperparameters that the embedded endpoint knows besides the API's own."""

_TERM = re.compile(r"(?P<name>[a-z_][a-z0-9_]*)=(?P<values>[^\s=]+)")


def parse_grid(terms: Sequence[str]) -> list[GridPoint]:
    """Every combination of the values in ``name=value,value`` terms, in the order in which they were written.

    Raises:
        UsageError: A term cannot be read, a name is not known or comes twice, or there are too many combinations.
    """
    axes: dict[str, list[Value]] = {}
    for term in terms:
        found = _TERM.fullmatch(term)
        if found is None:
            raise UsageError(f"{term[:60]!r} is no axis of a sweep", "write it as name=value,value: n_epochs=1,3")
        name = found["name"]
        if name not in (*_api_hyperparameters(), *LOCAL_HYPERPARAMETERS) or name in axes:
            known = ", ".join((*_api_hyperparameters(), *LOCAL_HYPERPARAMETERS))
            raise UsageError(f"{name!r} cannot be swept{' twice' if name in axes else ''}", f"known: {known}")
        axes[name] = [_value(name, text) for text in found["values"].split(",")]
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    if not 2 <= len(points) <= MAX_TRIALS:
        raise UsageError(f"a sweep of {len(points)} trials", f"give 2 to {MAX_TRIALS} combinations")
    for point in points:
        hyperparameters_at(Hyperparameters(), point)
    return points


def _api_hyperparameters() -> list[str]:
    return [name for name in Hyperparameters.model_fields if name != "extra"]


def _value(name: str, text: str) -> Value:
    if text == "auto" and name not in LOCAL_HYPERPARAMETERS:
        return text
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{name}={text[:40]} is no number", "give numbers, separated by commas")
    return int(number) if number.is_integer() and name != "learning_rate_multiplier" else number


def hyperparameters_at(base: Hyperparameters, point: GridPoint) -> Hyperparameters:
    """The asked hyperparameters with a point's values over them.

    Raises:
        UsageError: A value is out of its range.
    """
    own = {name: value for name, value in point.items() if name not in LOCAL_HYPERPARAMETERS}
    extra = {**base.extra, **{name: value for name, value in point.items() if name in LOCAL_HYPERPARAMETERS}}
    try:
        return Hyperparameters.model_validate({**base.model_dump(), **own, "extra": extra})
    except ValidationError as exc:
        first = exc.errors()[0]
        raise UsageError(f"{first['loc'][0]}: {first['msg']}", "choose values within the API's range") from exc


def trial_name(point: GridPoint) -> str:
    """A point in words."""
    return " ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in point.items()
    )
