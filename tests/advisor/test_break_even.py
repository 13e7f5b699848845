"""The break-even reproduces the worked figures to the digit, and is ``never`` when tuning saves nothing."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpipe.advisor.break_even import Training, TypicalCall, break_even, epoch_cost
from ftpipe.errors import UsageError
from ftpipe.records.advice import BreakEven
from ftpipe.records.evaluation import TokenPrice
from tests.evaluation.factories import LARGE, MINI, TUNED_4O_MINI, TUNED_MINI

TODAY, ENDS = date(2026, 11, 24), date(2027, 1, 14)
MILLION = Training(tokens=1_000_000, epochs=3)


def worked(prompt: int, *, base: TokenPrice = MINI, caching: bool, training: Training = MILLION) -> BreakEven:
    """A row of the worked table: short prompt 100, user 200, output 150 tokens."""
    call = TypicalCall(fixed_prompt=prompt, tuned_fixed_prompt=100, variable=200, output=150)
    return break_even(call, training, base=base, tuned=TUNED_MINI, caching=caching, today=TODAY, shutdown_date=ENDS)


@pytest.mark.parametrize(
    ("result", "base", "calls", "per_day"),
    [
        (worked(2000, caching=False), 1.12, 37_500, 735),
        (worked(2000, caching=True), 0.52, None, None),
        (worked(8000, caching=True), 1.12, 37_500, 735),
        (worked(2000, base=LARGE, caching=True), 2.60, 7_980, 156),
        (
            worked(2000, base=LARGE, caching=True, training=MILLION.model_copy(update={"labor": 2000.0})),
            2.60,
            1_072_000,
            21_000,
        ),
    ],
    ids=["mini", "mini cached", "mini long cached", "large to mini", "with people"],
)
def test_break_even_matches_worked_table(
    result: BreakEven, base: float, calls: int | None, per_day: int | None
) -> None:
    """Cost of a thousand calls each way, calls until even and calls a day for 51 days."""
    assert result.horizon_days == 51
    assert (round(result.base.amount, 2), round(result.tuned.amount, 2)) == (base, 0.72)
    if calls is None or per_day is None:
        assert (result.calls, result.calls_per_day, result.outcome) == (None, None, "never")
        return
    assert result.calls is not None
    assert result.calls_per_day is not None
    assert float(f"{result.calls:.{len(str(calls).rstrip('0'))}g}") == calls
    assert result.calls_per_day - 1 <= per_day * 1.001
    assert per_day <= result.calls_per_day * 1.001


def test_break_even_rounds_up_at_the_end() -> None:
    assert worked(2000, caching=False).calls == 37_500
    assert worked(2000, caching=False).calls_per_day == 736
    assert worked(2000, base=LARGE, caching=True).calls == 7_979
    assert worked(2000, caching=False).one_time.amount == 15.0


def test_epoch_cost_matches_worked_case() -> None:
    """1,000 examples of 500 tokens on gpt-4o-mini at 3.00 USD a million."""
    money = epoch_cost(1_000 * 500, TUNED_4O_MINI)
    assert (money.amount, money.currency) == (1.5, "USD")
    assert money.rows == (TUNED_4O_MINI,)
    assert money.formula == "500,000 tokens x 3 per million"


def test_break_even_figures_name_price_rows() -> None:
    """With date and source."""
    result = worked(2000, caching=True)
    for money in (result.base, result.tuned, result.one_time):
        assert all(row.as_of and row.source for row in money.rows)
        assert money.formula


def test_call_cost_does_not_cache_a_short_prompt() -> None:
    """Caching starts at 1,024 tokens; below that the full price applies."""
    result = worked(2000, caching=True)
    assert (result.base_cached_tokens, result.tuned_cached_tokens) == (2000, 0)


def test_call_cost_caches_whole_steps() -> None:
    """2,000 tokens are 15 steps of 128 and 80 more."""
    call = TypicalCall(fixed_prompt=2000, tuned_fixed_prompt=100, variable=200, output=150)
    result = break_even(call, MILLION, base=MINI, tuned=TUNED_MINI, caching=True, whole_steps=True)
    assert result.base_cached_tokens == 1920
    assert result.base.amount == pytest.approx(0.544)


def test_break_even_outcome_depends_on_traffic() -> None:
    """The same case with more and with fewer calls than the threshold."""
    call = TypicalCall(fixed_prompt=2000, tuned_fixed_prompt=100, variable=200, output=150)
    for traffic, outcome in ((800, "pays off"), (700, "too late"), (None, "depends on traffic")):
        result = break_even(
            call,
            MILLION,
            base=MINI,
            tuned=TUNED_MINI,
            caching=False,
            calls_per_day=traffic,
            today=TODAY,
            shutdown_date=ENDS,
        )
        assert result.outcome == outcome


def test_break_even_includes_hosting_per_day() -> None:
    """The daily cost has to be saved each day before anything else is."""
    local = TokenPrice(model="own machine", input=0, output=0, training=0, source="your own machine")
    call = TypicalCall(fixed_prompt=0, tuned_fixed_prompt=0, variable=1000, output=0)
    result = break_even(
        call, Training(tokens=10, epochs=1, labor=40), base=LARGE, tuned=local, calls_per_day=1500, hosting_per_day=2
    )
    assert result.days == pytest.approx(40)
    assert result.calls_per_day == 1000
    never = break_even(
        call, Training(tokens=10, epochs=1), base=LARGE, tuned=local, calls_per_day=900, hosting_per_day=2
    )
    assert never.outcome == "never"


def test_break_even_on_the_shutdown_day_is_too_late() -> None:
    call = TypicalCall(fixed_prompt=2000, tuned_fixed_prompt=100, variable=200, output=150)
    result = break_even(call, MILLION, base=LARGE, tuned=TUNED_MINI, today=ENDS, shutdown_date=ENDS, calls_per_day=1e9)
    assert result.outcome == "too late"


def test_break_even_rejects_mixed_currencies_and_missing_price() -> None:
    call = TypicalCall(fixed_prompt=1, tuned_fixed_prompt=1, variable=1, output=1)
    with pytest.raises(UsageError, match="EUR"):
        break_even(call, MILLION, base=MINI.model_copy(update={"currency": "EUR"}), tuned=TUNED_MINI)
    with pytest.raises(UsageError, match="no training price"):
        break_even(call, MILLION, base=MINI, tuned=MINI)


@given(st.integers(0, 20_000), st.integers(0, 2_000), st.integers(0, 2_000), st.booleans())
def test_break_even_calls_cover_the_one_time_cost(prompt: int, user: int, output: int, caching: bool) -> None:
    """N calls save the one-time cost, and N - 1 calls do not."""
    call = TypicalCall(fixed_prompt=prompt, tuned_fixed_prompt=100, variable=user, output=output)
    result = break_even(call, MILLION, base=LARGE, tuned=TUNED_MINI, caching=caching)
    saved_per_1000 = result.base.amount - result.tuned.amount
    if result.calls is None:
        assert saved_per_1000 <= 1e-12
        return
    assert result.calls * saved_per_1000 / 1000 >= result.one_time.amount * (1 - 1e-9)
    assert (result.calls - 1) * saved_per_1000 / 1000 < result.one_time.amount * (1 + 1e-9)
