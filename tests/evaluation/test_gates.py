"""Gates are read without evaluating anything, and test the lower end of the interval."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpipe.errors import UsageError
from ftpipe.evaluation.gates import parse_gates


def test_gate_parses_sign_percent_and_confidence() -> None:
    """Sign means gain, percent and confidence are optional."""
    [gain] = parse_gates("exact>=+0.03@95%")
    assert (gain.metric, gain.threshold, gain.is_gain, gain.confidence, gain.is_strict) == (
        "exact",
        0.03,
        True,
        0.95,
        False,
    )
    level, loss = parse_gates(" json_valid > 98% , exact >= -1.5% @ 0.9 ")
    assert (level.threshold, level.is_gain, level.is_strict, level.confidence) == (0.98, False, True, 0.95)
    assert loss.threshold == pytest.approx(-0.015)
    assert (loss.is_gain, loss.confidence) == (True, 0.9)


@pytest.mark.parametrize(
    "text",
    [
        "", "exact", "exact>=", "exact=>0.1", "exact<=0.1", "exact>=+0.03@", "exact>=0.1@20%", "exact>=1.5",
        "exact>=0.1@100%", "__import__('os')>=1", "exact>=1e9", "exact>=0.1;rm -rf /", "exact>=0.1,", "é>=0.1",
        "exact>=٣", "exact>=" + "9" * 5000,
    ],
)  # fmt: skip
def test_gate_rejects_invalid_text_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_gates(text)
    assert caught.value.hint


@given(st.text(max_size=60))
def test_gate_raises_only_usage_errors(text: str) -> None:
    try:
        assert parse_gates(text)
    except UsageError as error:
        assert error.message
