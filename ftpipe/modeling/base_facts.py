"""What is known of a base model without loading it: its configuration, its dimensions, its number of parameters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import read_json
from ftpipe.modeling.model_shape import ModelShape, context_length

MAX_HEADER_BYTES = 100_000_000
"""Largest header of a safetensors file. Source: https://github.com/huggingface/safetensors, README, 2026-11-29."""


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """A base model as its files describe it.

    Attributes:
        shape: Its dimensions; ``None`` for an architecture that ``ModelShape`` does not describe.
        context: Tokens that it can read; ``None`` if the configuration does not say.
        parameters: Number of weights.
    """

    shape: ModelShape | None
    context: int | None
    parameters: int

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> BaseFacts:
        """What a ``config.json`` says; the number of parameters is that of its dimensions."""
        shape = ModelShape.from_config(config)
        return cls(shape, context_length(config), shape.parameters if shape else 0)

    @classmethod
    def read(cls, folder: Path) -> BaseFacts:
        """Read ``config.json`` and the headers of the weights."""
        facts = cls.of_config(read_json(folder / "config.json") or {})
        parameters = sum(_count_weights(path) for path in folder.glob("*.safetensors"))
        return replace(facts, parameters=parameters or facts.parameters)


def _count_weights(path: Path) -> int:
    """The weights of a safetensors file by its header; 0 if it has none that can be read."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(size)) if 0 < size <= MAX_HEADER_BYTES else {}
        return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return 0
