"""Advantages, and the loss of GRPO with its gradient, without a model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from ftpipe.modeling.chat_tokenizer import Example
from ftpipe.training.grpo import GRPOObjective, Sample, advantages, answer_example, group_parts, mean_divergence


class Logprobs:
    """Stands for a model: the log-probabilities of all tokens are given, and are what is trained."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values_N = torch.tensor(values, requires_grad=True)

    def __call__(self, examples: Sequence[Example], *, by_token: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """All losses by token."""
        assert by_token
        assert sum(example.trained_tokens for example in examples) == len(self.values_N)
        return -self.values_N, torch.zeros(len(self.values_N))


def sample(advantage: float, logprobs: Sequence[float], *, prompt: int = 0, reference: float = -1.0) -> Sample:
    """A sample with these log-probabilities when it was sampled."""
    example = answer_example([1, 2, 3], range(len(logprobs)))
    return Sample(example, prompt, advantage, tuple(logprobs), (reference,) * len(logprobs))


def test_advantages_have_mean_zero_and_deviation_one() -> None:
    """The best answer is above the mean."""
    values = advantages([0.0, 0.5, 1.0, 0.5])
    assert sum(values) == pytest.approx(0)
    assert sum(value**2 for value in values) / 4 == pytest.approx(1)
    assert max(values) == values[2]
    assert advantages([0.3, 0.3, 0.3]) == [0, 0, 0]


def test_loss_makes_better_answers_likelier() -> None:
    """At the model that sampled, the gradient of each token is minus its advantage."""
    rows = [sample(1.5, [-1.0, -2.0]), sample(-0.5, [-1.0])]
    module = Logprobs([-1.0, -2.0, -1.0])
    objective = GRPOObjective(rows, beta=0.0)
    loss, stats = objective.loss(module, rows)
    loss.backward()
    assert module.values_N.grad is not None
    assert module.values_N.grad.tolist() == pytest.approx([-1.5, -1.5, 0.5])
    assert objective.weight([0, 1]) == stats.tokens == 3
    assert stats.mean_loss == pytest.approx(-(1.5 * 2 - 0.5) / 3)


def test_loss_is_clipped() -> None:
    """A token that is already likelier by more than a fifth gets no gradient; one that moved the wrong way does."""
    rows = [sample(1.0, [-1.0, -1.0])]
    module = Logprobs([-1.0 + math.log(1.3), -1.0 + math.log(0.7)])
    loss, stats = GRPOObjective(rows, beta=0.0).loss(module, rows)
    loss.backward()
    assert module.values_N.grad is not None
    assert module.values_N.grad.tolist() == pytest.approx([0.0, -0.7])
    assert stats.correct == 1


def test_loss_pulls_to_the_model_before_training() -> None:
    """Without an advantage the divergence alone has a gradient; it is 0 at the reference."""
    rows = [sample(0.0, [-1.0, -1.0], reference=-2.0)]
    module = Logprobs([-1.0, -2.0])
    loss, _ = GRPOObjective(rows, beta=0.5).loss(module, rows)
    loss.backward()
    assert module.values_N.grad is not None
    assert module.values_N.grad.tolist() == pytest.approx([0.5 * (1 - math.exp(-1)), 0.0])
    assert mean_divergence(rows) == pytest.approx(math.exp(-1))


def test_unlikely_tokens_overflow_nothing() -> None:
    """A ratio of e to the thousandth is cut."""
    rows = [sample(-1.0, [-1000.0], reference=1000.0)]
    loss, _ = GRPOObjective(rows, beta=0.04).loss(Logprobs([-0.1]), rows)
    assert math.isfinite(float(loss.detach()))


def test_parts_have_one_prompt_and_a_limit() -> None:
    """Samples of a prompt are computed together, as many as fit."""
    rows = [sample(1.0, [-1.0] * length, prompt=prompt) for length in (1, 5, 2) for prompt in (1, 0)]
    parts = group_parts(rows, max_tokens=16)
    assert [[(row.prompt, len(row.sampled_logprobs)) for row in part] for part in parts] == [
        [(0, 1), (0, 2)],
        [(0, 5)],
        [(1, 1), (1, 2)],
        [(1, 5)],
    ]
