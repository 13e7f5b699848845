"""The settings that make a job fit: the least costly first, and only where the job leaves the choice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ftpipe.modeling.machine import Machine
from ftpipe.modeling.memory import estimate_memory
from ftpipe.modeling.model_shape import ModelShape
from ftpipe.training.hyperparameters import ResolvedHyperparameters
from ftpipe.training.memory_settings import MemoryChoice, RowLengths, choose_settings, describe_choice, setup_of

LLAMA_8B = ModelShape(32, 4096, 14336, 32, 8, 128, 128_256, tied=False)
JOB = ResolvedHyperparameters(3, 8, 1.0, 1e-3, max_length=8192)
ROWS = RowLengths(2048, 0.25)


def choose(
    memory_gb: float | None, can_quantize: bool = True, shape: ModelShape | None = LLAMA_8B, **requested: Any
) -> MemoryChoice:
    """The settings of a job for a GPU of so much memory."""
    machine = Machine("cuda", None if memory_gb is None else int(memory_gb * 1e9), has_bfloat16=True)
    resolved = replace(JOB, **requested)
    return choose_settings(resolved, requested, shape=shape, machine=machine, rows=ROWS, can_quantize=can_quantize)


def test_choose_settings_gives_up_speed_before_quality_as_memory_shrinks() -> None:
    """Smaller parts of a batch, then checkpointing, then 4 bits; each choice says why."""
    chosen = [choose(gb) for gb in (80, 40, 26, 14, 4)]
    settings = [(c.hyperparameters.quantization, c.hyperparameters.gradient_checkpointing) for c in chosen]
    assert settings == [("none", False), ("none", False), ("none", True), ("4bit", True), ("4bit", True)]
    assert [c.fits for c in chosen] == [True, True, True, True, False]
    assert chosen[0].hyperparameters.micro_batch_tokens == 4096
    assert chosen[1].hyperparameters.micro_batch_tokens == 2048
    assert chosen[0].reasons == ()
    assert "at most 2,048 tokens are computed together" in chosen[1].reasons[0]
    assert "activations are computed twice" in chosen[2].reasons[0]
    assert "the base model is loaded with 4bit weights" in chosen[3].reasons[0]


def test_choose_settings_keeps_what_the_job_sets() -> None:
    """Also if it does not fit then."""
    assert choose(80, precision="float32").hyperparameters.precision == "float32"
    assert choose(200, quantization="8bit").hyperparameters.quantization == "8bit"
    assert choose(200, gradient_checkpointing=True).hyperparameters.gradient_checkpointing
    assert not choose(14, quantization="none").fits
    assert not choose(21, gradient_checkpointing=False, quantization="none").fits
    assert choose(80, micro_batch_tokens=512).hyperparameters.micro_batch_tokens == 512


def test_choose_settings_does_not_quantize_without_the_package() -> None:
    assert choose(14, can_quantize=False).hyperparameters.quantization == "none"
    assert not choose(14, can_quantize=False).fits


@pytest.mark.parametrize(
    ("requested", "strategy", "shards"),
    [
        ({"quantization": "none"}, "auto", 8),
        ({"quantization": "none"}, "ddp", 1),
        ({}, "auto", 1),  # 4-bit weights fit, and are not divided
        ({}, "fsdp", 8),
        ({"quantization": "8bit"}, "auto", 1),
    ],
)
def test_choose_settings_divides_weights_that_do_not_fit(requested: dict[str, Any], strategy: str, shards: int) -> None:
    machine = Machine("cuda", 14 * 10**9, 8, has_bfloat16=True)
    resolved = replace(JOB, **requested)
    choice = choose_settings(
        resolved, requested, shape=LLAMA_8B, machine=machine, rows=ROWS, can_quantize=True, strategy=strategy
    )
    assert choice.shards == shards
    assert choice.fits is (shards == 8 or not requested)
    assert ("8 processes share" in "".join(choice.reasons)) is (shards == 8 and strategy == "auto")


def test_choose_settings_of_unknown_architecture_or_memory_takes_the_fastest() -> None:
    """With the precision that suits the device."""
    for choice in (choose(4, shape=None), choose(None)):
        assert choice.fits
        assert choice.hyperparameters == replace(JOB, precision="bfloat16")


@pytest.mark.parametrize(
    ("change", "grows"),
    [
        ({"lora_r": 256}, True),
        ({"target_modules": ("all-linear",)}, True),
        ({"precision": "bfloat16"}, False),
        ({"quantization": "4bit"}, False),
        ({"gradient_checkpointing": True}, False),
        ({"micro_batch_tokens": 2048}, False),
        ({"max_length": 1024, "micro_batch_tokens": 1024}, False),
        ({"lora_dropout": 0.0}, False),
        ({"batch_size": 1}, False),
    ],
)
def test_each_setting_changes_the_memory(change: dict[str, Any], grows: bool) -> None:
    machine = Machine("cpu", None)
    before = estimate_memory(LLAMA_8B, setup_of(JOB, machine, ROWS)).total
    after = estimate_memory(LLAMA_8B, setup_of(replace(JOB, **change), machine, ROWS)).total
    assert (after > before) is grows
    assert after != before


def test_shards_divide_the_weights() -> None:
    machine = Machine("cuda", None, 8)
    alone, shared = (estimate_memory(LLAMA_8B, setup_of(JOB, machine, ROWS, shards=n)) for n in (1, 8))
    assert shared.weights == alone.weights // 8
    assert shared.activations == alone.activations
    assert shared.workspace > alone.workspace  # some weights are whole while they compute


def test_row_lengths_of_rows() -> None:
    assert RowLengths.of([10, 30], 8) == RowLengths(30, 0.2)


def test_describe_choice_says_what_is_loaded_and_planned() -> None:
    """For the events of the job."""
    assert next(iter(describe_choice(choose(80)))).startswith("The base model is loaded in bfloat16; ")
    small = list(describe_choice(choose(14)))
    assert "with 4bit weights" in small[0]
    assert "To fit into memory" in small[1]
    assert "may end because the memory runs out" in list(describe_choice(choose(4)))[-1]
