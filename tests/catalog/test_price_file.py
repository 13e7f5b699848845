"""The user's price file: checked, kept, and used by every estimate."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from ftpipe.catalog.inference_prices import answer_price
from ftpipe.catalog.price_file import keep_prices, kept_prices, price_file
from ftpipe.catalog.training_prices import PriceTable
from ftpipe.errors import ConfigError

TODAY = dt.date(2026, 11, 28)
VALID = """
[openai]
source = "price page"
as_of = 2026-11-28
[openai.training]
"gpt-4.1-mini" = 7
"gpt-9" = 1.5
[openai.base]
"gpt-4.1-mini" = [0.5, 0.1, 2]
[openai.tuned]
"gpt-9" = [1, 4]
"""


def test_keep_prices_replaces_rows_of_the_package(tmp_path: Path) -> None:
    """By name or alias; other rows stay, and the configuration replaces both."""
    before = PriceTable.load().row("gpt-4.1")
    source = tmp_path / "mine.toml"
    source.write_text(VALID)
    assert set(keep_prices(source, TODAY)) == {"openai"}
    row = PriceTable.load().row("gpt-4.1-mini-2025-04-14")
    assert row is not None
    assert (row.training, row.as_of, row.source, row.currency) == (7.0, TODAY, "price page", "USD")
    assert PriceTable.load().row("gpt-4.1") == before
    new = PriceTable.load().row("ft:gpt-9:org::id")
    assert new is not None and new.training == 1.5
    base, tuned = answer_price("openai", "gpt-4.1-mini", "base"), answer_price("openai", "gpt-9", "tuned")
    assert base is not None and (base.input, base.cached, base.output, base.as_of) == (0.5, 0.1, 2.0, "2026-11-28")
    assert tuned is not None and (tuned.model, tuned.cached, tuned.output) == ("ft:gpt-9", None, 4.0)
    own = PriceTable.load({"gpt-4.1-mini": 3}).row("gpt-4.1-mini")
    assert own is not None and own.training == 3.0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[openai]", "[opnai]", "no provider 'opnai'"),
        ("as_of = 2026-11-28", 'as_of = "soon"', "openai.as_of is not a date"),
        ("as_of = 2026-11-28", "as_of = 2026-11-29", "in the future"),
        ("as_of = 2026-11-28", "", "openai.as_of is not a date"),
        ('source = "price page"', "", "openai.source does not say"),
        ('source = "price page"', 'source = "x"\ncurrency = "dollars"', "not a code such as USD"),
        ("= 7", "= -1", 'openai.training."gpt-4.1-mini" is not a number from 0'),
        ("= 7", '= "7"', "is not a number"),
        ("= 7", "= true", "is not a number"),
        ("= 7", "= nan", "is not a number"),
        ("[0.5, 0.1, 2]", "[0.5]", "is not [INPUT, CACHED, OUTPUT]"),
        ("[0.5, 0.1, 2]", "0.5", "is not [INPUT, CACHED, OUTPUT]"),
        ("[openai.base]", "[openai.bass]", "no key openai.bass"),
        ("[openai]", "[openai", "not TOML"),
        (VALID, "", "has no prices"),
    ],
)
def test_keep_prices_refuses_a_malformed_file_and_changes_nothing(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    source = tmp_path / "mine.toml"
    source.write_text(VALID)
    keep_prices(source, TODAY)
    before = price_file().read_bytes()
    source.write_text(VALID.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message.replace("[", r"\[").replace("(", r"\(")):
        keep_prices(source, TODAY)
    assert price_file().read_bytes() == before


def test_kept_prices_that_were_damaged_are_an_error() -> None:
    assert kept_prices() == {}
    price_file().parent.mkdir(parents=True, exist_ok=True)
    price_file().write_text("[openai]\n")
    with pytest.raises(ConfigError, match=str(price_file())):
        PriceTable.load()
