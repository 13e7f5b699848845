"""Cross-entropy over trained tokens: its gradient for training, and its value for validation and for each row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ftpipe.modeling.chat_tokenizer import Example
from ftpipe.training.batching import micro_batches
from ftpipe.training.causal_lm import LanguageModel


@dataclass(frozen=True)
class LossStats:
    """Sums over trained tokens: their cross-entropy in nats, how many were predicted correctly, and their number."""

    loss: float = 0.0
    correct: int = 0
    tokens: int = 0

    def __add__(self, other: LossStats) -> LossStats:
        return LossStats(self.loss + other.loss, self.correct + other.correct, self.tokens + other.tokens)

    @property
    def mean_loss(self) -> float:
        """Nats per token."""
        return self.loss / max(1, self.tokens)

    @property
    def accuracy(self) -> float:
        """Fraction of tokens that were predicted correctly."""
        return self.correct / max(1, self.tokens)


def accumulate_gradients(lm: LanguageModel, examples: Sequence[Example], *, batch_tokens: int) -> LossStats:
    """Accumulate the gradient of a micro-batch: its summed loss divided by the whole batch's ``batch_tokens``."""
    losses_R, correct_R = lm(examples)
    (losses_R.sum() / batch_tokens).backward()
    tokens = sum(example.trained_tokens for example in examples)
    return LossStats(float(losses_R.detach().sum()), int(correct_R.sum()), tokens)


def evaluate(lm: LanguageModel, examples: Sequence[Example]) -> LossStats:
    """Loss and accuracy of the model on examples, in evaluation mode."""
    return sum(evaluate_rows(lm, examples), LossStats())


def evaluate_rows(
    lm: LanguageModel, examples: Sequence[Example], on_row: Callable[[int], None] = lambda _: None
) -> list[LossStats]:
    """Loss and accuracy of each example, in the order given.

    Args:
        lm: The model; it is put into evaluation mode for the call.
        examples: The examples.
        on_row: Called with the number of examples done so far.
    """
    import torch

    was_training = lm.training
    lm.eval()
    indices: dict[int, list[int]] = {}
    for index, example in enumerate(examples):
        indices.setdefault(id(example), []).append(index)
    stats: list[LossStats] = [LossStats()] * len(examples)
    done = 0
    with torch.no_grad():
        for batch in micro_batches(examples, lm.micro_batch_tokens):
            losses_R, correct_R = lm(batch)
            for example, loss, correct in zip(batch, losses_R.tolist(), correct_R.tolist(), strict=True):
                stats[indices[id(example)].pop(0)] = LossStats(loss, int(correct), example.trained_tokens)
            done += len(batch)
            on_row(done)
    lm.train(was_training)
    return stats
