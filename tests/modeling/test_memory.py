"""The memory formula: what its parts depend on, and that it agrees with a job that runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ftpipe.modeling.key_value_sizes import MAX_KEY_VALUE_BYTES
from ftpipe.modeling.memory import TrainingSetup, estimate_memory, sampling_bytes, weight_bytes
from ftpipe.modeling.model_shape import ModelShape
from tests.benchmarks.plan import CASES, planned

DENSE = ModelShape(12, 768, 2048, 12, 4, 64, 32_000)
EXPERTS = replace(DENSE, experts=8, active_experts=2, intermediate=1024)


@pytest.mark.parametrize(("quantization", "bits"), [("4bit", 4.1), ("8bit", 8.1), ("none", 32)])
def test_weight_bytes_of_linear_layers_are_those_of_the_quantization(quantization: str, bits: float) -> None:
    """Embeddings and norms keep their precision."""
    weights = weight_bytes(DENSE, TrainingSetup(quantization=quantization))
    others = 4 * (DENSE.parameters - DENSE.linear_parameters)
    assert (weights - others) * 8 / DENSE.linear_parameters == pytest.approx(bits, rel=0.01)


def test_experts_are_not_quantized() -> None:
    """They are one tensor of transformers, which is no linear layer."""
    setup = TrainingSetup(quantization="4bit")
    assert weight_bytes(EXPERTS, setup) >= 4 * EXPERTS.expert_parameters


def test_saved_activations_grow_with_tokens_and_attention_scores_with_their_square() -> None:
    eager = replace(DENSE, has_eager_attention=True)

    def activations(shape: ModelShape, tokens: int) -> int:
        return estimate_memory(shape, TrainingSetup(rows=1, tokens=tokens)).activations

    assert activations(DENSE, 1024) == pytest.approx(2 * activations(DENSE, 512), rel=1e-6)
    scores = [activations(eager, tokens) - activations(DENSE, tokens) for tokens in (512, 1024)]
    assert scores[1] == pytest.approx(4 * scores[0], rel=1e-6)


def test_checkpointing_keeps_the_inputs_of_layers_and_one_layer() -> None:
    setup = TrainingSetup(rows=1, tokens=1000, gradient_checkpointing=True)
    whole = estimate_memory(DENSE, replace(setup, gradient_checkpointing=False)).activations
    inputs = DENSE.layers * 1000 * DENSE.hidden * 4
    assert estimate_memory(DENSE, setup).activations == pytest.approx(inputs + whole / DENSE.layers, rel=1e-6)


def test_large_vocabulary_needs_memory_for_logits() -> None:
    """Of at most 512 tokens at a time."""
    setup = TrainingSetup(rows=1, tokens=64, trained_tokens=10_000)
    large = replace(DENSE, vocabulary=256_000)
    more = estimate_memory(large, setup).workspace - estimate_memory(DENSE, setup).workspace
    assert more > 512 * (256_000 - 32_000) * 8


def test_sampled_answers_need_memory_where_it_is_more_than_training_takes() -> None:
    """Keys and values are freed before activations come; a GPU samples one answer at a time."""
    long = TrainingSetup(rows=1, tokens=64, sampled_prompt=300, sampled_length=1000, sampled_prompts=4)
    estimate, without = estimate_memory(DENSE, long), estimate_memory(DENSE, replace(long, sampled_prompt=0))
    bytes_per_token = 2 * 12 * 4 * 64 * 4
    taken = (2 * 32 * 1024 + 4 * 300) * bytes_per_token
    assert sampling_bytes(DENSE, long) == taken
    assert estimate.required == without.required + estimate.sampling
    assert estimate.sampling + estimate.activations + estimate.workspace == taken
    assert estimate_memory(DENSE, replace(long, rows=64, tokens=1024)).sampling == 0
    assert sampling_bytes(DENSE, replace(long, device="cuda")) == 1000 * bytes_per_token
    large = replace(DENSE, layers=80, kv_heads=8, head_dim=128)
    assert sampling_bytes(large, long) < 4 * MAX_KEY_VALUE_BYTES  # fewer answers are open


@pytest.mark.slow
def test_estimate_is_within_a_tenth_of_a_job_that_runs(tmp_path: Path) -> None:
    """The whole table is made by ``python -m tests.benchmarks.plan``."""
    from tests.benchmarks.plan import measure, save_base

    case = replace(CASES[0], config={**CASES[0].config, "num_hidden_layers": 6, "vocab_size": 8000}, tokens=512)
    save_base(tmp_path / "base", case.config)
    progress = measure(tmp_path / "base", tmp_path / "job", case, 2)
    assert planned(case.config, case)["total"] == pytest.approx(progress["peak_memory_bytes"], rel=0.1)
