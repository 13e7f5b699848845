"""Base models of the Hugging Face hub that can be trained on the user's own machine; read from ``hub_models.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ftpipe.modeling.model_shape import ModelShape


@dataclass(frozen=True, slots=True)
class HubModel:
    """One row of ``hub_models.toml``."""

    name: str
    """Hub id, ``org/name``."""
    licence: str
    context: int
    """Tokens that the model can read."""
    shape: ModelShape
    gated: bool = False
    """Whether the hub gives it only to accounts that have accepted its licence."""


@cache
def hub_models() -> tuple[HubModel, ...]:
    """The rows, in the order of the file."""
    raw: dict[str, Any] = tomllib.loads(files(__package__).joinpath("hub_models.toml").read_text(encoding="utf-8"))
    return tuple(HubModel(**{**row, "shape": ModelShape(**row["shape"])}) for row in raw["model"])
