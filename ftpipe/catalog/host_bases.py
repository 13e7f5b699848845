"""What the base models of each host can be trained on, and whose place they can take; read from ``host_bases.toml``."""

from __future__ import annotations

import datetime as dt
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

Size = Literal["small", "medium", "large"]


@dataclass(frozen=True, slots=True)
class HostBase:
    """One base model at one host; what is not known is ``None``."""

    name: str
    succeeds: tuple[Size, ...]
    """Sizes of the models whose place it can take, the best fit first."""
    source: str
    as_of: dt.date
    parameters_b: float | None = None
    """Parameters in billions."""
    methods: tuple[str, ...] = ("supervised", "dpo")
    tokens: int | None = None
    """Tokens per example that supervised training reads."""
    dpo_tokens: int | None = None
    tools: bool | None = None
    images: bool | None = None
    reasoning: bool | None = None


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("host_bases.toml").read_text(encoding="utf-8"))


@cache
def host_bases(target: str) -> tuple[HostBase, ...]:
    """The base models of a host, in the order of the file."""
    table = _tables().get(target, {})
    return tuple(
        HostBase(**{**row, **{key: tuple(row[key]) for key in ("succeeds", "methods") if key in row}},
                 source=table["source"], as_of=table["as_of"])
        for row in table.get("base", ())
    )  # fmt: skip


@cache
def find_host_base(model: str, target: str) -> HostBase | None:
    """The row of a model at a host, by its name or the last part of it; ``None`` if it is not known."""
    name = model.lower()
    for base in host_bases(target):
        known = base.name.lower()
        if name == known or name == known.rsplit("/", 1)[-1]:
            return base
    return None


def size_of(model: str) -> Size | None:
    """The size of a base model of OpenAI, by its full name; ``None`` if it is not known."""
    size: Size | None = _tables()["sizes"].get(model)
    return size


def drops_long_examples(target: str) -> bool:
    """Whether the host leaves out examples that are longer than its limit, instead of cutting them."""
    return bool(_tables().get(target, {}).get("over_limit") == "dropped")
