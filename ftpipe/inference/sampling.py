"""Choose the next token: penalties and biases first, then the form of the answer, then temperature and chance."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftpipe.errors import UsageError
from ftpipe.inference.constrained_decoding import GrammarConstraint

if TYPE_CHECKING:
    import torch


class LogitBiasError(UsageError):
    """A bias for a token that the base does not have."""

    code = "invalid_logit_bias"


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn.

    Attributes:
        temperature: 0 takes the likeliest token each time.
        top_p: Share of probability that is drawn from, above 0 to 1.
        seed: The same seed draws the same answer; ``None`` for any.
        frequency_penalty: Taken from a token's logit for each time that it has come, -2 to 2.
        presence_penalty: Taken from the logit of a token that has come at all, -2 to 2.
        logit_bias: Added to the logits of these ids; -100 rules out, 100 forces.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None


class Sampler:
    """Draws the tokens of one answer.

    Args:
        sampling: How.
        vocabulary_size: Logits of the model.
        constraint: The form that the answer is held to, if any.

    Raises:
        LogitBiasError: ``logit_bias`` names an id beyond the vocabulary.
    """

    def __init__(
        self, sampling: SamplingParams, vocabulary_size: int, constraint: GrammarConstraint | None = None
    ) -> None:
        import torch

        beyond = [id_ for id_ in sampling.logit_bias or {} if not 0 <= id_ < vocabulary_size]
        if beyond:
            message = f"token {beyond[0]} is not among the {vocabulary_size} tokens of this model"
            raise LogitBiasError(message, "use token ids of the base's own tokenizer")
        self._params = sampling
        self._constraint = constraint
        self._token_counts: Counter[int] = Counter()
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self._generator = torch.Generator().manual_seed(seed)

    def sample(self, logits: torch.Tensor) -> int:
        """The next token."""
        shaped = self._penalised(logits)
        if self._constraint is not None:
            shaped = self._constraint.mask_logits(shaped)
        chosen = self._draw(shaped)
        self._token_counts[chosen] += 1
        if self._constraint is not None:
            self._constraint.accept_token(chosen)
        return chosen

    def _penalised(self, logits: torch.Tensor) -> torch.Tensor:
        """Source: OpenAI API reference, "Frequency and presence penalties", read 2026-11-24."""
        import torch

        how = self._params
        shaped = logits.clone()
        if self._token_counts and (how.frequency_penalty or how.presence_penalty):
            ids = torch.tensor(list(self._token_counts))
            counts = torch.tensor([float(count) for count in self._token_counts.values()])
            shaped[ids] -= counts * how.frequency_penalty + how.presence_penalty
        for id_, bias in (how.logit_bias or {}).items():
            shaped[id_] += bias
        return shaped

    def _draw(self, logits: torch.Tensor) -> int:
        import torch

        if self._params.temperature <= 0:
            return int(logits.argmax())
        probabilities, ids = torch.softmax(logits / self._params.temperature, -1).sort(descending=True)
        if self._params.top_p < 1:
            before = probabilities.cumsum(-1) - probabilities
            probabilities = probabilities.masked_fill(before >= self._params.top_p, 0.0)
            if not probabilities.any():
                return int(ids[0])
        return int(ids[torch.multinomial(probabilities, 1, generator=self._generator)])
