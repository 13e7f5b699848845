"""What is known about base models: names, limits, methods, shutdown dates; read from ``base_models.toml``."""

from __future__ import annotations

import datetime as dt
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from ftpipe.catalog.host_bases import find_host_base
from ftpipe.suggestions import join_or, nearest_names
from ftpipe.tokenization import base_of


@dataclass(frozen=True, slots=True)
class BaseModel:
    """One row of ``base_models.toml``."""

    name: str
    aliases: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    example_tokens: int | None = None
    """Tokens per example that hosted training reads; ``None`` if none is documented."""
    context: int | None = None
    """Tokens that the model can read, for local training."""
    vision: bool | None = None
    shutdown: Mapping[str, dt.date] = field(default_factory=dict)
    """Target → day on which the model and models tuned from it are shut down."""


DEFAULT_EXAMPLE_TOKENS = {"openai": 65_536, "azure": 65_536}
"""Source: OpenAI best-practices guide, 2026-07-15; for Azure it is assumed."""


@cache
def base_models() -> tuple[BaseModel, ...]:
    """Every known base model, in the order of the file."""
    raw: dict[str, Any] = tomllib.loads(files(__package__).joinpath("base_models.toml").read_text(encoding="utf-8"))
    rows = ({**row, "aliases": tuple(row.get("aliases", ())), "methods": tuple(row["methods"])} for row in raw["model"])
    return tuple(BaseModel(**row) for row in rows)


def find_base(model: str) -> BaseModel | None:
    """The row of a model, by name, alias or as the base of a fine-tuned name; ``None`` if it is not known."""
    name = base_of(model).lower()
    return next((row for row in base_models() if name == row.name or name in row.aliases), None)


def is_hosted_base(model: str) -> bool:
    """Whether a name is that of a base model that is trained at a hosted provider, and of no model tuned from it."""
    row = find_base(model)
    return row is not None and bool(row.shutdown) and base_of(model) == model


def hosted_base_names() -> list[str]:
    """Names and aliases of the base models that are trained at hosted providers."""
    return [name for row in base_models() if row.shutdown for name in (*row.aliases, row.name)]


def base_hint(model: str, known: Iterable[str]) -> str:
    """What to do about a base model that does not exist: the most similar names, and the command that lists all."""
    similar = nearest_names(model, known)
    question = f"did you mean {join_or(similar)}? " if similar else ""
    return f"{question}`ftpipe models bases` lists what can be trained"


def example_limit(model: str, target: str) -> int | None:
    """Tokens per example that the target trains on; ``None`` if no limit is known."""
    row = find_base(model) if model else None
    if target == "local":
        return row.context if row else None
    if target not in DEFAULT_EXAMPLE_TOKENS:
        base = find_host_base(model, target) if model else None
        return base.tokens if base else None
    return DEFAULT_EXAMPLE_TOKENS[target] if row is None else row.example_tokens
