"""A grid is parsed, or rejected before anything is sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpipe.errors import UsageError
from ftpipe.records import Hyperparameters
from ftpipe.sweep.grid import hyperparameters_at, parse_grid, trial_name


def test_grid_lists_each_combination_in_order() -> None:
    points = parse_grid(["epochs=1,3", "learning_rate_multiplier=0.5,1,2"])
    assert [trial_name(point) for point in points][:2] == [
        "epochs=1 learning_rate_multiplier=0.5",
        "epochs=1 learning_rate_multiplier=1",
    ]
    assert len(points) == 6


def test_hyperparameters_at_point_keep_the_base_values() -> None:
    base = Hyperparameters(batch_size=4, lora_dropout=0.1, extra={"packing": True})
    [point, _] = parse_grid(["lora_rank=8,16"])
    merged = hyperparameters_at(base, point)
    assert (merged.batch_size, merged.lora_dropout, merged.lora_r, merged.extra) == (4, 0.1, 8, {"packing": True})
    assert parse_grid(["batch_size=auto,8"])[0] == {"batch_size": "auto"}


@pytest.mark.parametrize(
    "axes",
    [
        ["epochs"], ["epochs=1"], ["epochs=1,99"], ["epochs=a,b"], ["n_epochs=1,2"],
        ["lora_rank=0,8"], ["lora_rank=auto,8"], ["learning_rate=0.1,2"], ["target_modules=1,2"],
        ["epochs=1,2", "epochs=3,4"],
        ["epochs=nan,1"], ["epochs=1.5,2"], ["extra=1,2"], ["epochs=" + ",".join("1" * 65)], ["x=1,2;rm"], [""],
    ],
)  # fmt: skip
def test_grid_rejects_invalid_axes_with_a_hint(axes: list[str]) -> None:
    """Unknown names, values out of range, one combination, too many."""
    with pytest.raises(UsageError) as caught:
        parse_grid(axes)
    assert caught.value.hint


@given(st.lists(st.text(max_size=30), max_size=3))
def test_grid_raises_only_usage_errors(axes: list[str]) -> None:
    try:
        assert parse_grid(axes)
    except UsageError as error:
        assert error.message
