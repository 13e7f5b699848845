"""Cross-entropy over trained tokens: its gradient for training, and its value for validation and for each row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftpipe.modeling.chat_tokenizer import Example
from ftpipe.training.batching import micro_batches
from ftpipe.training.causal_lm import HiddenStates, LanguageModel

if TYPE_CHECKING:
    import torch

HEAD_CHUNK_TOKENS = 512
"""Trained tokens whose logits exist at the same time; with 150,000 tokens in the vocabulary they take 300 MB."""
MAX_FORWARD_TOKENS = 4096
"""Padded tokens that are computed together."""


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
    """Accumulate the gradient of a micro-batch: its summed loss divided by the whole batch's ``batch_tokens``.

    The head is frozen, so the gradient goes through it chunk by chunk into the hidden states; the logits of a whole
    batch never exist at the same time.
    """
    import torch
    from torch.nn.functional import cross_entropy

    states = lm.hidden_states(examples)
    hidden_ND = states.hidden_ND.detach().requires_grad_(requires_grad=True)
    loss, correct = 0.0, 0
    for part in range(0, len(hidden_ND), HEAD_CHUNK_TOKENS):
        targets = states.targets_N[part : part + HEAD_CHUNK_TOKENS]
        logits = lm.head(hidden_ND[part : part + HEAD_CHUNK_TOKENS])
        summed = cross_entropy(logits, targets, reduction="sum")
        (summed / batch_tokens).backward()
        loss += float(summed.detach())
        correct += int((logits.detach().argmax(-1) == targets).sum())
    if states.hidden_ND.requires_grad:
        torch.autograd.backward(states.hidden_ND, hidden_ND.grad)
    return LossStats(loss, correct, len(hidden_ND))


def token_losses(lm: LanguageModel, states: HiddenStates) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy in nats of each trained token, and whether it was predicted correctly; no gradient."""
    import torch
    from torch.nn.functional import cross_entropy

    losses, correct = [], []
    with torch.no_grad():
        for part in range(0, len(states.hidden_ND), HEAD_CHUNK_TOKENS):
            targets = states.targets_N[part : part + HEAD_CHUNK_TOKENS]
            logits = lm.head(states.hidden_ND[part : part + HEAD_CHUNK_TOKENS])
            losses.append(cross_entropy(logits, targets, reduction="none"))
            correct.append(logits.argmax(-1) == targets)
    return torch.cat(losses), torch.cat(correct)


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

    was_training = lm.model.training
    lm.model.eval()
    indices: dict[int, list[int]] = {}
    for index, example in enumerate(examples):
        indices.setdefault(id(example), []).append(index)
    stats: list[LossStats] = [LossStats()] * len(examples)
    done = 0
    with torch.no_grad():
        for batch in micro_batches(examples, MAX_FORWARD_TOKENS):
            states = lm.hidden_states(batch)
            losses, correct = token_losses(lm, states)
            for row, example in enumerate(batch):
                selected = states.rows_N == row
                summed = LossStats(float(losses[selected].sum()), int(correct[selected].sum()), int(selected.sum()))
                stats[indices[id(example)].pop(0)] = summed
            done += len(batch)
            on_row(done)
    lm.model.train(was_training)
    return stats
