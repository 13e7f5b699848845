"""Resolving the hyperparameters that a job requests."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ftpipe.errors import UsageError
from ftpipe.training.hyperparameters import (
    ResolvedHyperparameters,
    auto_batch_size,
    default_learning_rate,
    max_sequence_length,
    resolve_hyperparameters,
)


def plan(examples: int = 100, method: str = "supervised", **requested: Any) -> ResolvedHyperparameters:
    """A plan for a base of the default's size."""
    return resolve_hyperparameters(
        requested, examples=examples, parameters=135_000_000, max_context=8192, on_accelerator=False, method=method
    )


@pytest.mark.parametrize(("examples", "batch"), [(2, 2), (10, 4), (145, 4), (5_000, 10), (100_000, 32)])
def test_auto_batch_size_grows_with_examples(examples: int, batch: int) -> None:
    """0.2 % of the rows between 4 and 32."""
    assert auto_batch_size(examples) == batch


@pytest.mark.parametrize(
    ("parameters", "rate"), [(135e6, 2e-3), (540e6, 1e-3), (7e9, 2.8e-4), (1e5, 2e-3), (1e13, 5e-5)]
)
def test_default_learning_rate_falls_with_model_size(parameters: float, rate: float) -> None:
    """A multiplier of 1 means the rate that is usual for the size."""
    assert math.isclose(default_learning_rate(int(parameters)), rate, rel_tol=0.02)


def test_learning_rate_multiplier_scales_default() -> None:
    """Twice the multiplier is twice the rate."""
    assert plan(learning_rate_multiplier=2).learning_rate == pytest.approx(2 * plan().learning_rate)


def test_resolve_auto_equals_missing() -> None:
    """The API's word is understood everywhere."""
    assert plan(n_epochs="auto", batch_size="auto", learning_rate_multiplier="auto", lora_r="auto") == plan()


def test_resolve_accepts_extra_hyperparameters() -> None:
    """What only the local engine knows is read from the same table."""
    resolved = plan(lora_r=8, lora_alpha=8, lora_dropout=0, learning_rate=1e-4, target_modules="q_proj, k_proj")
    expected = (8, 8, 0.0, 1e-4, ("k_proj", "q_proj"))
    assert (
        resolved.lora_r,
        resolved.lora_alpha,
        resolved.lora_dropout,
        resolved.learning_rate,
        resolved.target_modules,
    ) == expected


@pytest.mark.parametrize(
    "requested",
    [
        {"n_epochs": 51},
        {"n_epochs": 0},
        {"batch_size": 257},
        {"learning_rate_multiplier": 0},
        {"learning_rate_multiplier": "fast"},
        {"lora_dropout": float("nan")},
        {"target_modules": []},
    ],
)
def test_resolve_refuses_values_out_of_range(requested: dict[str, Any]) -> None:
    """The message names the hyperparameter."""
    with pytest.raises(UsageError, match=next(iter(requested))):
        plan(**requested)


def test_learning_rate_warms_up_and_decays() -> None:
    """Up over the first tenth of the steps, then down to a tenth of the peak."""
    resolved = plan()
    rates = [resolved.learning_rate_at(step, 100) for step in range(1, 101)]
    assert rates.index(max(rates)) == 9
    assert max(rates) == pytest.approx(resolved.learning_rate)
    assert rates[-1] == pytest.approx(0.1 * resolved.learning_rate)


def test_hyperparameters_json_round_trip() -> None:
    """A restarted job goes on with the same numbers."""
    assert ResolvedHyperparameters.from_json(plan(beta=0.2, method="dpo").as_json()) == plan(beta=0.2, method="dpo")


@pytest.mark.parametrize(
    ("requested", "context", "on_accelerator", "limit"),
    [
        (None, 8192, False, 2048),
        ("auto", 131_072, True, 8192),
        (None, 512, True, 512),
        (4096, 8192, False, 4096),
        (None, 4, False, 4),
    ],
)
def test_max_sequence_length_depends_on_job_model_and_machine(
    requested: object, context: int, on_accelerator: bool, limit: int
) -> None:
    """Trainer and check ask this function, so that they have one limit."""
    assert max_sequence_length(requested, max_context=context, on_accelerator=on_accelerator) == limit
    assert plan(max_length=300).max_length == 300


def test_max_sequence_length_refuses_more_than_the_context() -> None:
    with pytest.raises(UsageError, match="max_length is 9000, outside 8 to 8192"):
        max_sequence_length(9000, max_context=8192, on_accelerator=True)


def test_resolve_hyperparameters_takes_skip_bad_rows() -> None:
    assert plan(skip_bad_rows=True).skip_bad_rows and not plan().skip_bad_rows
    with pytest.raises(UsageError, match="skip_bad_rows is 'yes', not true or false"):
        plan(skip_bad_rows="yes")
