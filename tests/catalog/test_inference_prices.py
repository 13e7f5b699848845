"""Prices of answers come with day and source, and are not guessed."""

from __future__ import annotations

import pytest

from ftpipe.catalog.inference_prices import answer_price, read_price
from ftpipe.errors import UsageError


@pytest.mark.parametrize(
    ("model", "kind", "prices"),
    [
        ("gpt-4.1-mini", "base", (0.40, 0.10, 1.60)),
        ("gpt-4.1-mini-2025-04-14", "tuned", (0.80, 0.20, 3.20)),
        ("gpt-4.1", "base", (2.00, 0.50, 8.00)),
        ("gpt-4o-mini", "tuned", (0.30, 0.15, 1.20)),
        ("davinci-002", "tuned", (12.0, None, 12.0)),
    ],
)
def test_answer_price_finds_model_with_and_without_date(
    model: str, kind: str, prices: tuple[float | None, ...]
) -> None:
    """As the price page had them."""
    row = answer_price("openai", model, kind)  # type: ignore[arg-type]  # the parameter is one of the two
    assert row is not None
    assert (row.input, row.cached, row.output) == prices
    assert row.as_of
    assert row.source


def test_answer_price_unknown_model_or_target_is_none() -> None:
    """Nothing is guessed; at home it costs nothing."""
    assert answer_price("openai", "gpt-9", "base") is None
    assert answer_price("nebius", "gpt-4.1", "base") is None
    home = answer_price("local", "smollm2-135m-instruct", "tuned")
    assert home is not None
    assert (home.input, home.output, home.source) == (0, 0, "your own machine")


@pytest.mark.parametrize("text", ["", "1", "a,b", "1,2,3,4", "-1,2", "nan,1", "1,inf"])
def test_read_price_rejects_invalid_text(text: str) -> None:
    """Two or three numbers of 0 or more."""
    with pytest.raises(UsageError):
        read_price(text, "m", today="2026-11-24")
    assert read_price("1,2", "m", today="2026-11-24").cached is None
