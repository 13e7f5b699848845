"""A grid is read as it is typed, and refused before anything is sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpipe.errors import UsageError
from ftpipe.records import Hyperparameters
from ftpipe.sweep.grid import hyperparameters_at, parse_grid, trial_name


def test_every_combination_comes_once_in_the_order_written() -> None:
    """Two by three."""
    points = parse_grid(["n_epochs=1,3", "learning_rate_multiplier=0.5,1,2"])
    assert [trial_name(point) for point in points][:2] == [
        "n_epochs=1 learning_rate_multiplier=0.5",
        "n_epochs=1 learning_rate_multiplier=1",
    ]
    assert len(points) == 6


def test_values_go_over_what_was_asked_and_extras_beside_it() -> None:
    """What is not swept stays."""
    asked = Hyperparameters(batch_size=4, extra={"lora_dropout": 0.1})
    [point, _] = parse_grid(["lora_r=8,16"])
    made = hyperparameters_at(asked, point)
    assert (made.batch_size, made.extra) == (4, {"lora_dropout": 0.1, "lora_r": 8})
    assert parse_grid(["batch_size=auto,8"])[0] == {"batch_size": "auto"}


@pytest.mark.parametrize(
    "terms",
    [
        ["n_epochs"], ["n_epochs=1"], ["n_epochs=1,99"], ["n_epochs=a,b"], ["epochs=1,2"],
        ["n_epochs=1,2", "n_epochs=3,4"],
        ["n_epochs=nan,1"], ["n_epochs=1.5,2"], ["extra=1,2"], ["n_epochs=" + ",".join("1" * 65)], ["x=1,2;rm"], [""],
    ],
)  # fmt: skip
def test_what_cannot_be_swept_is_refused_with_a_hint(terms: list[str]) -> None:
    """Unknown names, values out of range, one combination, too many."""
    with pytest.raises(UsageError) as caught:
        parse_grid(terms)
    assert caught.value.hint


@given(st.lists(st.text(max_size=30), max_size=3))
def test_any_terms_are_a_grid_or_a_usage_error(terms: list[str]) -> None:
    """Never another error."""
    try:
        assert parse_grid(terms)
    except UsageError as error:
        assert error.message
