"""The user's own price file, which ``ftpipe config prices FILE`` checks and keeps; its rows replace the package's.

::

    [openai]
    source = "https://platform.openai.com/docs/pricing"
    as_of = 2026-11-28
    currency = "USD"
    [openai.training]                       # per million trained tokens
    "gpt-4.1-mini-2025-04-14" = 5.00
    [openai.base]                           # input, cached input, output per million tokens
    "gpt-4.1-mini-2025-04-14" = [0.40, 0.10, 1.60]
    [openai.tuned]
    "gpt-4.1-mini-2025-04-14" = [0.80, 0.20, 3.20]
"""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from ftpipe.atomic_files import write_bytes
from ftpipe.errors import ConfigError
from ftpipe.paths import home
from ftpipe.suggestions import did_you_mean

PROVIDERS = ("openai", "azure", "nebius", "together", "fireworks")
"""Providers with prices."""
PriceKind = Literal["training", "base", "tuned"]
KINDS: tuple[PriceKind, ...] = ("training", "base", "tuned")
MAX_PRICE = 1_000_000
"""Highest accepted price of a million tokens, in any currency."""
MAX_FILE_BYTES = 1_000_000
_FIELDS = ("source", "as_of", "currency", *KINDS)
_CURRENCY = re.compile(r"[A-Z]{3}")


@dataclass(frozen=True, slots=True)
class ProviderPrices:
    """The prices of one provider."""

    source: str
    as_of: dt.date
    currency: str
    training: Mapping[str, float]
    """Model → price of a million trained tokens."""
    base: Mapping[str, tuple[float, float | None, float]]
    """Model → prices of a million tokens of input, cached input (``None`` if there is none) and output."""
    tuned: Mapping[str, tuple[float, float | None, float]]
    """The same for a model tuned from it."""


def price_file() -> Path:
    """Where the file is kept."""
    return home() / "prices.toml"


def kept_prices() -> Mapping[str, ProviderPrices]:
    """Provider → prices of the kept file; empty if there is none.

    Raises:
        ConfigError: The file was changed and is not valid any more.
    """
    path = price_file()
    return read_prices(path) if path.is_file() else {}


def keep_prices(source: Path, today: dt.date) -> Mapping[str, ProviderPrices]:
    """Check a price file and keep a copy of it for all later commands.

    Args:
        source: The file.
        today: A price cannot have been read later.

    Raises:
        ConfigError: The file is malformed; nothing was changed.
    """
    prices = read_prices(source)
    for name, one in prices.items():
        if one.as_of > today:
            raise _invalid(source, f"{name}.as_of is {one.as_of}, which is in the future")
    target = price_file()
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, source.read_bytes())
    return prices


def read_prices(path: Path) -> dict[str, ProviderPrices]:
    """The prices of a file.

    Raises:
        ConfigError: It cannot be read or is malformed.
    """
    try:
        raw = path.read_bytes()
        if len(raw) > MAX_FILE_BYTES:
            raise _invalid(path, "the file is larger than 1 MB")
        tables = tomllib.loads(raw.decode("utf-8-sig"))
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}", "check the path") from exc
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as exc:
        raise _invalid(path, f"it is not TOML: {exc}") from exc
    prices = {name: _provider(path, name, table) for name, table in tables.items()}
    if not any(rows for one in prices.values() for rows in (one.training, one.base, one.tuned)):
        raise _invalid(path, "it has no prices")
    return prices


def _provider(path: Path, name: str, table: object) -> ProviderPrices:
    if name not in PROVIDERS:
        raise _invalid(path, f"there is no provider {name!r} with prices", did_you_mean(name, PROVIDERS))
    if not isinstance(table, dict):
        raise _invalid(path, f"{name} is not a table")
    for key in table:
        if key not in _FIELDS:
            raise _invalid(path, f"there is no key {name}.{key}", did_you_mean(key, _FIELDS))
    source, as_of, currency = table.get("source"), table.get("as_of"), table.get("currency", "USD")
    if not isinstance(source, str) or not source.strip():
        raise _invalid(path, f"{name}.source does not say where the prices were read")
    if type(as_of) is not dt.date:
        raise _invalid(path, f"{name}.as_of is not a date such as 2026-11-28 (without quotes)")
    if not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
        raise _invalid(path, f"{name}.currency is not a code such as USD")
    rows = {kind: dict(_rows(path, f"{name}.{kind}", kind, table.get(kind, {}))) for kind in KINDS}
    return ProviderPrices(source.strip(), as_of, currency, **cast("Any", rows))


def _rows(path: Path, name: str, kind: PriceKind, table: object) -> Iterator[tuple[str, Any]]:
    if not isinstance(table, dict):
        raise _invalid(path, f"{name} is not a table")
    for model, value in table.items():
        if kind == "training":
            if not _is_price(value):
                raise _invalid(path, f'{name}."{model}" is not a number from 0 to {MAX_PRICE:,}')
            yield model, float(value)
            continue
        numbers = value if isinstance(value, list) else []
        if len(numbers) not in (2, 3) or not all(map(_is_price, numbers)):
            raise _invalid(path, f'{name}."{model}" is not [INPUT, CACHED, OUTPUT] or [INPUT, OUTPUT]')
        yield model, (float(numbers[0]), float(numbers[1]) if len(numbers) == 3 else None, float(numbers[-1]))


def _is_price(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_PRICE


def _invalid(path: Path, message: str, hint: str = "") -> ConfigError:
    return ConfigError(f"{path}: {message}", hint or "`ftpipe config prices --toml` prints a file in this form")
