"""Prices of training, each with its source and date; read from ``training_prices.toml`` and overridable by the user."""

from __future__ import annotations

import datetime as dt
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from ftpipe.catalog.base_models import find_base
from ftpipe.catalog.price_file import MAX_PRICE, kept_prices
from ftpipe.errors import ConfigError
from ftpipe.records import Method
from ftpipe.tokenization import base_of

STALE_DAYS = 60


@dataclass(frozen=True, slots=True)
class PriceRow:
    """What one million trained tokens of a model cost."""

    model: str
    training: float
    currency: str
    as_of: dt.date | None
    """Day on which the price was read; ``None`` for a local model."""
    source: str
    is_configured: bool = False
    """The row is from ``[prices]`` of the user's configuration."""
    dpo: float | None = None
    """The same for preference training; ``None`` if it costs as much."""
    minimum: float = 0.0
    """What a job costs at least."""

    def price_for(self, method: Method) -> float:
        """The price of one million trained tokens with a method."""
        return self.dpo if method is Method.DPO and self.dpo is not None else self.training

    def age_days(self, today: dt.date) -> int | None:
        """Days since the price was read."""
        return None if self.as_of is None else (today - self.as_of).days


class PriceTable:
    """Price rows by model for one target; the user's rows win."""

    def __init__(self, rows: Mapping[str, PriceRow]) -> None:
        self._rows = dict(rows)

    @classmethod
    def load(cls, overrides: Mapping[str, Any] | None = None, *, target: str = "openai") -> PriceTable:
        """The package's rows for a target, with those of the user's price file and configuration on top.

        Args:
            overrides: Model → price per million, or a table of ``training``, ``as_of``, ``source``, ``currency``.
            target: ``openai``, ``azure``, ``nebius`` or ``local``; other targets have no rows.

        Raises:
            ConfigError: An override is neither a number nor such a table, or the price file is malformed.
        """
        rows = dict(_packaged(target))
        if kept := kept_prices().get(target):
            for model, price in kept.training.items():
                known = rows.get(_key(model))
                new = PriceRow(known.model if known else model, price, kept.currency, kept.as_of, kept.source)
                rows[_key(model)] = replace(new, dpo=known.dpo, minimum=known.minimum) if known else new
        for model, value in (overrides or {}).items():
            rows[_key(model)] = _override(model, value)
        return cls(rows)

    def row(self, model: str) -> PriceRow | None:
        """The row of a model, its alias or the base in a fine-tuned name; ``None`` if no price is known."""
        own = self._rows.get(_key(model)) or self._rows.get(base_of(model).lower())
        own = own or self._rows.get(f"accounts/fireworks/models/{model}".lower())  # Fireworks takes the id alone, too
        return own or self._rows.get("*")

    def rows(self) -> tuple[PriceRow, ...]:
        """Every row, the cheapest first."""
        return tuple(sorted(self._rows.values(), key=lambda row: (row.training, row.model)))


def _key(model: str) -> str:
    known = find_base(model)
    return known.name if known else base_of(model).lower()


@cache
def _packaged(target: str) -> Mapping[str, PriceRow]:
    raw: dict[str, Any] = tomllib.loads(files(__package__).joinpath("training_prices.toml").read_text(encoding="utf-8"))
    table = raw.get(target, {})
    return {
        model.lower(): PriceRow(
            model,
            float(price),
            table["currency"],
            table.get("as_of"),
            table["source"],
            dpo=table.get("dpo", {}).get(model),
            minimum=float(table.get("minimum", 0.0)),
        )
        for model, price in table.get("training", {}).items()
    }


def _override(model: str, value: object) -> PriceRow:
    example = f'[prices."{model}"] training = 5.0, as_of = 2026-11-24, source = "invoice"'
    table = value if isinstance(value, Mapping) else {"training": value}
    price, as_of = table.get("training"), table.get("as_of")
    if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price <= MAX_PRICE:
        raise ConfigError(f"The price of {model} is not a number from 0 to {MAX_PRICE:,}.", example)
    if isinstance(as_of, str):
        try:
            as_of = dt.date.fromisoformat(as_of)
        except ValueError as exc:
            raise ConfigError(f"as_of of {model} is not a date.", example) from exc
    if as_of is not None and type(as_of) is not dt.date:
        raise ConfigError(f"as_of of {model} is not a date.", example)
    source = str(table.get("source", "your configuration"))
    return PriceRow(model, float(price), str(table.get("currency", "USD")), as_of, source, is_configured=True)
