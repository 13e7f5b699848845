"""Sample the next token: penalties and biases, then the grammar, then temperature, min-p, top-k and top-p."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ftpipe.inference.constrained_decoding import GrammarConstraint
from ftpipe.inference.request import LogitBiasError, SamplingParams

if TYPE_CHECKING:
    import torch


class Sampler:
    """Samples the tokens of one answer.

    Args:
        params: How tokens are sampled.
        vocabulary_size: Number of logits of the model.
        constraint: The grammar of the answer, if there is one.
        prompt: Ids that the answer follows.

    Raises:
        LogitBiasError: ``logit_bias`` names an id beyond the vocabulary.
    """

    def __init__(
        self,
        params: SamplingParams,
        vocabulary_size: int,
        constraint: GrammarConstraint | None = None,
        prompt: Iterable[int] = (),
    ) -> None:
        import torch

        unknown = [id_ for id_ in params.logit_bias or {} if not 0 <= id_ < vocabulary_size]
        if unknown:
            message = f"token {unknown[0]} is not among the {vocabulary_size} tokens of this model"
            raise LogitBiasError(message, "use token ids of the base model's tokenizer")
        self._params = params
        self._constraint = constraint
        self._token_counts: Counter[int] = Counter()
        self._prompt_ids = frozenset(prompt)
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
        """Penalties and biases.

        Source: OpenAI API reference, "Frequency and presence penalties", read 2026-11-24; vLLM, "Sampling Parameters",
        https://docs.vllm.ai/en/latest/api/vllm/sampling_params, 2026-11-29.
        """
        import torch

        params = self._params
        adjusted = logits.clone()
        if params.repetition_penalty != 1:
            ids = torch.tensor(sorted(self._prompt_ids | self._token_counts.keys()))
            values = adjusted[ids]
            adjusted[ids] = torch.where(
                values > 0, values / params.repetition_penalty, values * params.repetition_penalty
            )
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
        if self._params.min_p > 0:
            probabilities = probabilities.masked_fill(probabilities < self._params.min_p * probabilities[0], 0.0)
        if self._params.top_k > 0:
            probabilities = probabilities[: self._params.top_k]
        if self._params.min_p > 0 or self._params.top_k > 0:
            probabilities = probabilities / probabilities.sum()
        if self._params.top_p < 1:
            cumulative = probabilities.cumsum(-1) - probabilities
            probabilities = probabilities.masked_fill(cumulative >= self._params.top_p, 0.0)
            if not probabilities.any():
                return int(ids[0])
        return int(ids[torch.multinomial(probabilities, 1, generator=self._generator)])
