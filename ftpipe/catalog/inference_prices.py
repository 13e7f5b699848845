"""Prices of inference for base and tuned models, each with source and date; read from ``inference_prices.toml``."""

from __future__ import annotations

import datetime as dt
import tomllib
from functools import cache
from importlib import resources
from typing import Any, Literal

from ftpipe.catalog.base_models import find_base
from ftpipe.catalog.price_file import kept_prices
from ftpipe.errors import UsageError
from ftpipe.records.evaluation import TokenPrice

Kind = Literal["base", "tuned"]

OWN_MACHINE = TokenPrice(model="your own machine", input=0, output=0, training=0, source="your own machine")


def answer_price(target: str, base: str, kind: Kind) -> TokenPrice | None:
    """The price of a model, or ``None`` if it is not known; a local model costs nothing.

    Args:
        target: Whose prices: ``openai``, ``local``, …; other targets have none.
        base: Base model, by its name or the start of it (``gpt-4o-mini``).
        kind: Whether the base itself answers, or a model tuned from it.
    """
    if target == "local":
        return OWN_MACHINE.model_copy(update={"model": base})
    rows = inference_rows(target, kind)
    name = _named(base, rows)
    return None if name is None else rows[name]


def inference_rows(target: str, kind: Kind) -> dict[str, TokenPrice]:
    """Model → price, of the package and of the user's price file, which wins.

    Args:
        target: As for ``answer_price``.
        kind: As for ``answer_price``.
    """
    rows: dict[str, TokenPrice] = {}

    def add(name: str, numbers: tuple[float, float | None, float], currency: str, as_of: dt.date, source: str) -> None:
        rows[name] = TokenPrice(
            model=name if kind == "base" else f"ft:{name}", input=numbers[0], cached=numbers[1], output=numbers[2],
            currency=currency, as_of=as_of.isoformat(), source=source,
        )  # fmt: skip

    if table := _tables().get(target, {}).get(kind):
        for name, (input_price, cached, output_price) in table["rows"].items():
            numbers = (input_price, cached if cached >= 0 else None, output_price)
            add(name, numbers, table["currency"], table["as_of"], table["source"])
    if kept := kept_prices().get(target):
        for name, prices in (kept.base if kind == "base" else kept.tuned).items():
            known = find_base(name)
            add(known.name if known else name.lower(), prices, kept.currency, kept.as_of, kept.source)
    return rows


def batch_price_factor(target: str) -> float | None:
    """Price of a token through the Batch API as a share of the ordinary one; ``None`` if that is not known."""
    table = _tables().get(target, {}).get("batch")
    return float(table["factor"]) if table else None


def _named(base: str, rows: dict[str, Any]) -> str | None:
    """The row's name for a model's name with or without its date; gpt-4o does not stand for gpt-4o-mini."""
    lowered = base.lower()
    dated = (name for name in rows if name.startswith((f"{lowered}-2", f"{lowered}-0")))
    return lowered if lowered in rows else next(dated, None)


def read_price(text: str, model: str, *, today: str, currency: str = "USD") -> TokenPrice:
    """A price from the command line: ``INPUT,CACHED,OUTPUT`` or ``INPUT,OUTPUT``, per million tokens.

    Raises:
        UsageError: It is not two or three numbers of 0 or more.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3) or not all(0 <= number < 1e6 for number in numbers):
        raise UsageError(
            f"{text[:60]!r} is not a price", "give INPUT,CACHED,OUTPUT per million tokens, for example 0.40,0.10,1.60"
        )
    cached = numbers[1] if len(numbers) == 3 else None
    return TokenPrice(
        model=model, input=numbers[0], cached=cached, output=numbers[-1], currency=currency, as_of=today,
        source="command line",
    )  # fmt: skip


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(resources.files(__package__).joinpath("inference_prices.toml").read_text(encoding="utf-8"))
