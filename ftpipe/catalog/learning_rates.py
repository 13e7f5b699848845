"""Absolute learning rates for hosts that take no multiplier; read from ``learning_rates.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ftpipe.records import Method


@dataclass(frozen=True, slots=True)
class LearningRate:
    """A rate, and how it was found."""

    value: float
    reason: str


def absolute_learning_rate(target: str, method: Method, multiplier: float | str) -> LearningRate | None:
    """The rate that stands for a multiplier at a host with absolute rates; ``None`` if the host's default is not known.

    Args:
        target: Whose default is scaled.
        method: The fine-tuning method.
        multiplier: A factor, or ``auto`` for the host's default.
    """
    table = _tables().get(target, {})
    default = table.get(method.value)
    if default is None:
        return None
    source = f"{table['source']}, {table['as_of']}"
    if not isinstance(multiplier, int | float):
        return LearningRate(default, f"learning rate {default:g} is the host's default ({source})")
    rate = float(f"{default * multiplier:.6g}")
    return LearningRate(
        rate,
        f"learning rate {rate:g} stands for the multiplier {multiplier:g}: times {default:g}, the host's default "
        f"({source}); --learning-rate sets another one",
    )


@cache
def _tables() -> dict[str, dict[str, Any]]:
    text = files(__package__).joinpath("learning_rates.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
