"""Direct preference optimization (DPO): make the preferred answer likelier than the other one.

For a pair with the same prompt, the loss is ``-log sigmoid(beta * ((c - c0) - (r - r0)))``: ``c`` and ``r`` are the
log-probabilities of the preferred and the other answer, ``c0`` and ``r0`` the same before training. A higher ``beta``
keeps the model closer to the one before training.

Source: Rafailov et al., "Direct Preference Optimization", arXiv 2305.18290, equation 7, read 2026-11-24.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.modeling.chat_tokenizer import ChatTemplateError, ChatTokenizer, Example
from ftpipe.training.batching import REFUSE_BAD_ROWS, BadRows, convert_rows
from ftpipe.training.loss import LossModule, LossStats, RowEvaluator

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Pair:
    """A preferred and another answer to one prompt, and their log-probabilities in nats before training."""

    chosen: Example
    rejected: Example
    chosen_reference: float = 0.0
    rejected_reference: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens of both sequences."""
        return len(self.chosen.ids) + len(self.rejected.ids)

    def to_json(self) -> list[Any]:
        """Both examples and both log-probabilities."""
        return [self.chosen.to_json(), self.rejected.to_json(), self.chosen_reference, self.rejected_reference]

    @classmethod
    def from_json(cls, row: Sequence[Any]) -> Pair:
        """The pair that ``to_json`` wrote."""
        return cls(Example.from_json(row[0]), Example.from_json(row[1]), row[2], row[3])


def read_pairs(
    path: Path, chat_tokenizer: ChatTokenizer, *, limit: int, bad_rows: BadRows = REFUSE_BAD_ROWS
) -> tuple[list[Pair], tuple[str, ...]]:
    """Render, tokenize and mask every row of a preference file; also line and reason of rows that were left out.

    Raises:
        DatasetError: Rows that cannot be trained on, with their lines (the first ten).
    """

    def convert(_line: int, record: dict[str, Any]) -> Pair:
        if not {"input", "preferred_output", "non_preferred_output"} <= record.keys():
            raise ChatTemplateError("it is not a preference row (input, preferred_output, non_preferred_output)")
        chosen, rejected = chat_tokenizer.pair(record)
        length = max(len(chosen.ids), len(rejected.ids))
        if length > limit:
            raise ChatTemplateError(f"it has {length:,} tokens, and {limit:,} are trained")
        return Pair(chosen, rejected)

    rows, skipped = convert_rows(path, convert, unit="preference pair", bad_rows=bad_rows)
    return [pair for _, pair in rows], skipped


def with_reference_logprobs(evaluate_rows: RowEvaluator, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with their log-probabilities under the model before training."""
    logprobs = [-row.loss for row in evaluate_rows(_examples(pairs))]
    return [
        Pair(pair.chosen, pair.rejected, logprobs[2 * index], logprobs[2 * index + 1])
        for index, pair in enumerate(pairs)
    ]


@dataclass
class DPOObjective:
    """The DPO loss; its statistics count pairs, and a pair is correct if its margin is positive."""

    pairs: Sequence[Pair]
    beta: float
    validation: Sequence[Pair] = ()
    lengths: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.lengths = [pair.tokens for pair in self.pairs]

    @property
    def validation_rows(self) -> int:
        """Number of validation pairs."""
        return len(self.validation)

    def prepare(self, evaluate_rows: RowEvaluator) -> None:
        """Compute the log-probabilities before training."""
        self.pairs = with_reference_logprobs(evaluate_rows, self.pairs)
        self.validation = with_reference_logprobs(evaluate_rows, self.validation)

    def micro_batches(self, indices: Sequence[int], max_tokens: int) -> list[list[Pair]]:
        """The training pairs at ``indices`` in parts of at most so many padded tokens, which are computed together."""
        return _micro_batches([self.pairs[index] for index in indices], max_tokens)

    def weight(self, indices: Sequence[int]) -> int:
        """Number of pairs."""
        return len(indices)

    def loss(self, module: LossModule, rows: Sequence[Pair]) -> tuple[torch.Tensor, LossStats]:
        """The summed loss of pairs, and their statistics."""
        from torch.nn.functional import logsigmoid

        losses_R, _ = module([pair.chosen for pair in rows] + [pair.rejected for pair in rows])
        margins_P = self._margins(rows, -losses_R.view(2, -1))
        return -logsigmoid(margins_P).sum(), self._stats(margins_P.detach())

    def validate(self, evaluate_rows: RowEvaluator, indices: Sequence[int] | None) -> LossStats:
        """Evaluate the validation pairs at ``indices``, or all."""
        import torch

        selected = self.validation if indices is None else [self.validation[index] for index in indices]
        logprobs_2P = torch.tensor([-row.loss for row in evaluate_rows(_examples(selected))]).view(-1, 2).T
        return self._stats(self._margins(selected, logprobs_2P))

    def _margins(self, pairs: Sequence[Pair], logprobs_2P: torch.Tensor) -> torch.Tensor:
        import torch

        reference_2P = torch.tensor([[p.chosen_reference for p in pairs], [p.rejected_reference for p in pairs]])
        shift_2P = logprobs_2P - reference_2P.to(logprobs_2P.device)
        return self.beta * (shift_2P[0] - shift_2P[1])

    def _stats(self, margins_P: torch.Tensor) -> LossStats:
        from torch.nn.functional import logsigmoid

        return LossStats(float(-logsigmoid(margins_P).sum()), int((margins_P > 0).sum()), len(margins_P))


def _examples(pairs: Sequence[Pair]) -> list[Example]:
    return [example for pair in pairs for example in (pair.chosen, pair.rejected)]


def _micro_batches(pairs: Sequence[Pair], max_tokens: int) -> list[list[Pair]]:
    parts: list[list[Pair]] = []
    width = 0
    for pair in sorted(pairs, key=lambda pair: pair.tokens):
        width = max(width, len(pair.chosen.ids), len(pair.rejected.ids))
        if parts and width * 2 * (len(parts[-1]) + 1) <= max_tokens:
            parts[-1].append(pair)
        else:
            parts.append([pair])
            width = max(len(pair.chosen.ids), len(pair.rejected.ids))
    return parts
