"""Losses of examples and what is minimized: the cross-entropy over trained tokens, or a loss that is made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ftpipe.modeling.chat_tokenizer import Example
from ftpipe.training.batching import micro_batches
from ftpipe.training.hyperparameters import MAX_MICRO_BATCH_TOKENS

if TYPE_CHECKING:
    import torch


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

    def as_row(self) -> list[float]:
        """The three sums, to be added up over processes."""
        return [self.loss, float(self.correct), float(self.tokens)]

    @classmethod
    def from_row(cls, row: Sequence[float]) -> LossStats:
        """The statistics that ``as_row`` gave."""
        return cls(row[0], round(row[1]), round(row[2]))


class LossModule(Protocol):
    """A ``LanguageModel``, or what DDP or FSDP made of it."""

    def __call__(self, examples: Sequence[Example], *, by_token: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each example, or of each trained token, and its correct tokens."""


RowEvaluator = Callable[[Sequence[Example]], list[LossStats]]
"""Loss and accuracy of each example, in the order given."""


class BatchObjective(Protocol):
    """What the rows of a batch minimize; a row is an example, a pair of them, or a sampled answer."""

    def micro_batches(self, indices: Sequence[int], max_tokens: int) -> list[list[Any]]:
        """The training rows at ``indices`` in parts of at most so many padded tokens, which are computed together."""

    def weight(self, indices: Sequence[int]) -> int:
        """The number that the summed loss of these rows is divided by for a mean."""

    def loss(self, module: LossModule, rows: Sequence[Any]) -> tuple[torch.Tensor, LossStats]:
        """The summed loss of rows, which has a gradient, and their statistics."""


class Objective(BatchObjective, Protocol):
    """What is minimized: the supervised loss or a preference loss."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each training row."""

    @property
    def validation_rows(self) -> int:
        """Number of validation rows."""

    def prepare(self, evaluate_rows: RowEvaluator) -> None:
        """Compute what depends on the model before training."""

    def validate(self, evaluate_rows: RowEvaluator, indices: Sequence[int] | None) -> LossStats:
        """Evaluate the validation rows at ``indices``, or all."""


@dataclass
class SupervisedObjective:
    """Mean cross-entropy over the trained tokens of a batch."""

    examples: Sequence[Example]
    validation: Sequence[Example] = ()
    lengths: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.lengths = [len(example.ids) for example in self.examples]

    @property
    def validation_rows(self) -> int:
        """Number of validation rows."""
        return len(self.validation)

    def prepare(self, evaluate_rows: RowEvaluator) -> None:
        """Nothing: the loss depends on the rows alone."""

    def micro_batches(self, indices: Sequence[int], max_tokens: int) -> list[list[Example]]:
        """The training examples at ``indices`` in parts of at most so many padded tokens."""
        return micro_batches([self.examples[index] for index in indices], max_tokens)

    def weight(self, indices: Sequence[int]) -> int:
        """Number of trained tokens."""
        return sum(self.examples[index].trained_tokens for index in indices)

    def loss(self, module: LossModule, rows: Sequence[Example]) -> tuple[torch.Tensor, LossStats]:
        """The summed cross-entropy of examples, and their statistics."""
        losses_R, correct_R = module(rows)
        summed = losses_R.sum()
        tokens = sum(example.trained_tokens for example in rows)
        return summed, LossStats(float(summed.detach()), int(correct_R.sum()), tokens)

    def validate(self, evaluate_rows: RowEvaluator, indices: Sequence[int] | None) -> LossStats:
        """Evaluate the validation rows at ``indices``, or all."""
        rows = self.validation if indices is None else [self.validation[index] for index in indices]
        return sum(evaluate_rows(rows), LossStats())


def evaluate_rows(
    module: Any,  # noqa: ANN401 - a ``LossModule`` that is a module of torch, which is untyped here
    examples: Sequence[Example],
    on_row: Callable[[int], None] = lambda _: None,
    *,
    max_tokens: int = MAX_MICRO_BATCH_TOKENS,
) -> list[LossStats]:
    """Loss and accuracy of each example, in the order given.

    Args:
        module: The model; it is put into evaluation mode for the call.
        examples: The examples.
        on_row: Called with the number of examples done so far.
        max_tokens: Padded tokens that are computed together.
    """
    import torch

    was_training = module.training
    module.eval()
    indices: dict[int, list[int]] = {}
    for index, example in enumerate(examples):
        indices.setdefault(id(example), []).append(index)
    stats: list[LossStats] = [LossStats()] * len(examples)
    done = 0
    with torch.no_grad():
        for batch in micro_batches(examples, max_tokens):
            losses_R, correct_R = module(batch)
            for example, loss, correct in zip(batch, losses_R.tolist(), correct_R.tolist(), strict=True):
                stats[indices[id(example)].pop(0)] = LossStats(loss, int(correct), example.trained_tokens)
            done += len(batch)
            on_row(done)
    module.train(was_training)
    return stats
