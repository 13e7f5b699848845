"""Sample the next token: penalties and biases, then the grammar, then temperature and top-p."""

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
    """A bias for a token that the model does not have."""

    code = "invalid_logit_bias"


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are sampled.

    Attributes:
        temperature: 0 takes the most probable token each time.
        top_p: Probability mass to sample from, above 0 to 1.
        seed: The same seed gives the same answer; ``None`` for a random one.
        frequency_penalty: Subtracted from a token's logit for each time that it was sampled, -2 to 2.
        presence_penalty: Subtracted from the logit of a token that was sampled before, -2 to 2.
        logit_bias: Added to the logits of these ids; -100 excludes a token, 100 forces it.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None


class Sampler:
    """Samples the tokens of one answer.

    Args:
        params: How tokens are sampled.
        vocabulary_size: Number of logits of the model.
        constraint: The grammar of the answer, if there is one.

    Raises:
        LogitBiasError: ``logit_bias`` names an id beyond the vocabulary.
    """

    def __init__(
        self, params: SamplingParams, vocabulary_size: int, constraint: GrammarConstraint | None = None
    ) -> None:
        import torch

        unknown = [id_ for id_ in params.logit_bias or {} if not 0 <= id_ < vocabulary_size]
        if unknown:
            message = f"token {unknown[0]} is not among the {vocabulary_size} tokens of this model"
            raise LogitBiasError(message, "use token ids of the base model's tokenizer")
        self._params = params
        self._constraint = constraint
        self._token_counts: Counter[int] = Counter()
        seed = secrets.randbits(63) if params.seed is None else params.seed
        self._generator = torch.Generator().manual_seed(seed)

    def sample(self, logits: torch.Tensor) -> int:
        """The next token."""
        adjusted = self._apply_penalties(logits)
        if self._constraint is not None:
            adjusted = self._constraint.mask_logits(adjusted)
        token = self._draw(adjusted)
        self._token_counts[token] += 1
        if self._constraint is not None:
            self._constraint.accept_token(token)
        return token

    def _apply_penalties(self, logits: torch.Tensor) -> torch.Tensor:
        """Source: OpenAI API reference, "Frequency and presence penalties", read 2026-11-24."""
        import torch

        params = self._params
        adjusted = logits.clone()
        if self._token_counts and (params.frequency_penalty or params.presence_penalty):
            ids = torch.tensor(list(self._token_counts))
            counts = torch.tensor([float(count) for count in self._token_counts.values()])
            adjusted[ids] -= counts * params.frequency_penalty + params.presence_penalty
        for id_, bias in (params.logit_bias or {}).items():
            adjusted[id_] += bias
        return adjusted

    def _draw(self, logits: torch.Tensor) -> int:
        import torch

        if self._params.temperature <= 0:
            return int(logits.argmax())
        probabilities, ids = torch.softmax(logits / self._params.temperature, -1).sort(descending=True)
        if self._params.top_p < 1:
            cumulative = probabilities.cumsum(-1) - probabilities
            probabilities = probabilities.masked_fill(cumulative >= self._params.top_p, 0.0)
            if not probabilities.any():
                return int(ids[0])
        return int(ids[torch.multinomial(probabilities, 1, generator=self._generator)])
