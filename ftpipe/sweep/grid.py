"""The grid of a sweep: parses its axes and lists every combination of their values."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

from pydantic import ValidationError

from ftpipe.config import flag_of
from ftpipe.errors import UsageError
from ftpipe.records import Hyperparameters
from ftpipe.records.job import EXTENDED_HYPERPARAMETERS
from ftpipe.records.sweep import GridPoint, HyperparameterValue

MAX_TRIALS = 64
_AXES = {
    flag_of(f"hyperparameters.{name}").removeprefix("--").replace("-", "_"): name
    for name in Hyperparameters.model_fields
    if name not in ("extra", "target_modules", "precision", "quantization", "gradient_checkpointing")
}
"""Name of an axis → hyperparameter; an axis is named like the flag."""
_RATES = ("learning_rate_multiplier", "learning_rate")
"""Axes whose values stay fractions: ``1.0`` and ``1`` are one rate."""
_AXIS = re.compile(r"(?P<name>[a-z_][a-z0-9_]*)=(?P<values>[^\s=]+)")


def parse_grid(axes: Sequence[str]) -> list[GridPoint]:
    """Every combination of the values in ``KEY=V1,V2`` axes, in the order in which they were written.

    Raises:
        UsageError: An axis cannot be parsed, a name is unknown or repeated, or there are too many combinations.
    """
    values: dict[str, list[HyperparameterValue]] = {}
    for axis in axes:
        match = _AXIS.fullmatch(axis)
        if match is None:
            raise UsageError(f"{axis[:60]!r} is not an axis of a sweep", "write it as KEY=V1,V2: epochs=1,3")
        name = match["name"]
        if name not in _AXES:
            raise UsageError(f"there is no hyperparameter {name!r}", f"known: {', '.join(_AXES)}")
        if name in values:
            raise UsageError(f"{name!r} is given twice", "list all its values in one axis: KEY=V1,V2")
        values[name] = [_parse_value(name, text) for text in match["values"].split(",")]
    points = [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]
    if not 2 <= len(points) <= MAX_TRIALS:
        raise UsageError(f"a sweep cannot have {len(points)} trials", f"give 2 to {MAX_TRIALS} combinations")
    for point in points:
        hyperparameters_at(Hyperparameters(), point)
    return points


def _parse_value(name: str, text: str) -> HyperparameterValue:
    if text == "auto" and _AXES[name] not in EXTENDED_HYPERPARAMETERS:
        return text
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{name}={text[:40]} is not a number", "give numbers, separated by commas")
    return int(number) if number.is_integer() and name not in _RATES else number


def hyperparameters_at(base: Hyperparameters, point: GridPoint) -> Hyperparameters:
    """The base hyperparameters with the values of a grid point in their place.

    Raises:
        UsageError: A value is out of its range.
    """
    try:
        return Hyperparameters.model_validate(base.model_dump() | {_AXES[name]: value for name, value in point.items()})
    except ValidationError as exc:
        first = exc.errors()[0]
        raise UsageError(f"{first['loc'][0]}: {first['msg']}", "choose values within the API's range") from exc


def trial_name(point: GridPoint) -> str:
    """A grid point as text: ``epochs=3 learning_rate_multiplier=0.5``."""
    return " ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in point.items()
    )
