"""Group relative policy optimization (GRPO): make the better ones of several answers to a prompt likelier.

The advantage of an answer is how much its reward exceeds the mean of its group, in standard deviations. With ``r`` the
ratio of a token's probabilities now and when it was sampled, the loss of the token is
``-min(r * a, clip(r, 1 - 0.2, 1 + 0.2) * a) + beta * k``, where ``k`` estimates the divergence from the model before
training. The loss of a batch is the mean over all its tokens, so that long answers count as much as short ones.

Source: Shao et al., "DeepSeekMath", arXiv 2402.03300, equations 3 and 4; the mean over tokens is that of Yu et al.,
"DAPO", arXiv 2503.14476; read 2026-11-29.

Why not trl's ``GRPOTrainer``: it samples with ``transformers.generate`` or a vLLM server, keeps its state in pickles of
its own folder layout, and brings datasets, pyarrow and pandas (trl 1.16, read 2026-11-29).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftpipe.modeling.chat_tokenizer import IGNORE_INDEX, Example
from ftpipe.training.loss import LossModule, LossStats

if TYPE_CHECKING:
    import torch

CLIP_RANGE = 0.2
"""How far a ratio of probabilities may be from 1 until it has no gradient any more."""
MIN_DEVIATION = 1e-6
"""Rewards of a group that differ by less are the same."""
MAX_LOG_RATIO = 10.0
"""Larger logarithms of ratios are cut, so that no exponential overflows."""


@dataclass(frozen=True)
class Sample:
    """A sampled answer to train on, with a number for each of its tokens in both log-probabilities, in nats.

    Attributes:
        example: Prompt and answer; the answer is trained.
        prompt: Number of the prompt; the samples of a prompt are a group.
        advantage: Above 0 if the answer is to become likelier.
        sampled_logprobs: With the weights that the answer was sampled with.
        reference_logprobs: With the weights before training.

    Both are computed by the trainer: the decoder rounds in its own way, and a ratio to its log-probabilities would
    differ from 1 before anything was learnt.
    """

    example: Example
    prompt: int
    advantage: float
    sampled_logprobs: tuple[float, ...] = ()
    reference_logprobs: tuple[float, ...] = ()


def answer_example(prompt: Sequence[int], answer: Sequence[int]) -> Example:
    """Prompt and answer as a sequence in which the answer is trained."""
    return Example((*prompt, *answer), (*[IGNORE_INDEX] * len(prompt), *answer))


def advantages(rewards: Sequence[float]) -> list[float]:
    """The advantage of each answer of a group; all 0 if the rewards are the same, so that nothing is to be learnt."""
    deviation = statistics.pstdev(rewards)
    if deviation < MIN_DEVIATION:
        return [0.0] * len(rewards)
    mean = statistics.fmean(rewards)
    return [(reward - mean) / deviation for reward in rewards]


def mean_divergence(samples: Sequence[Sample]) -> float:
    """Estimate of the divergence from the model before training, in nats per token."""
    import torch

    sampled_N = torch.tensor([value for sample in samples for value in sample.sampled_logprobs])
    reference_N = torch.tensor([value for sample in samples for value in sample.reference_logprobs])
    return float(_divergence(sampled_N, reference_N).mean())


def _divergence(logprobs_N: torch.Tensor, reference_N: torch.Tensor) -> torch.Tensor:
    """An unbiased estimate for each token that is never negative."""
    shift_N = (reference_N - logprobs_N).clamp(max=MAX_LOG_RATIO)
    return shift_N.exp() - shift_N - 1


@dataclass
class GRPOObjective:
    """The loss of the samples of one step; its statistics count tokens, and clipped ones as correct."""

    samples: Sequence[Sample]
    beta: float

    def micro_batches(self, indices: Sequence[int], max_tokens: int) -> list[list[Sample]]:
        """The samples at ``indices`` in parts that are computed together: those of a prompt, which share it."""
        return group_parts([self.samples[index] for index in indices], max_tokens)

    def weight(self, indices: Sequence[int]) -> int:
        """Number of tokens."""
        return sum(len(self.samples[index].sampled_logprobs) for index in indices)

    def loss(self, module: LossModule, rows: Sequence[Sample]) -> tuple[torch.Tensor, LossStats]:
        """The summed loss of samples, and their statistics."""
        import torch

        losses_N, _ = module([sample.example for sample in rows], by_token=True)
        logprobs_N = -losses_N

        def tensor(values: Sequence[Sequence[float]]) -> torch.Tensor:
            return torch.tensor([value for part in values for value in part], device=losses_N.device)

        advantage_N = tensor([[sample.advantage] * len(sample.sampled_logprobs) for sample in rows])
        sampled_N = tensor([sample.sampled_logprobs for sample in rows])
        reference_N = tensor([sample.reference_logprobs for sample in rows])
        ratio_N = (logprobs_N - sampled_N).clamp(max=MAX_LOG_RATIO).exp()
        gain_N = ratio_N * advantage_N
        clipped_N = ratio_N.clamp(1 - CLIP_RANGE, 1 + CLIP_RANGE) * advantage_N
        loss = (self.beta * _divergence(logprobs_N, reference_N) - torch.minimum(gain_N, clipped_N)).sum()
        return loss, LossStats(float(loss.detach()), int((clipped_N < gain_N).sum()), len(logprobs_N))


def group_parts(samples: Sequence[Sample], max_tokens: int) -> list[list[Sample]]:
    """Samples in parts of one prompt and at most so many padded tokens."""
    parts: list[list[Sample]] = []
    longest = 0
    for sample in sorted(samples, key=lambda sample: (sample.prompt, len(sample.example.ids))):
        length = len(sample.example.ids)
        if parts and parts[-1][0].prompt == sample.prompt and max(longest, length) * (len(parts[-1]) + 1) <= max_tokens:
            parts[-1].append(sample)
            longest = max(longest, length)
        else:
            parts.append([sample])
            longest = length
    return parts
