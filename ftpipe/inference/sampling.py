"""Sample the next token: penalties and biases, then the grammar, then temperature, min-p, top-k and top-p.

Each row of a batch is sampled by itself, so that its tokens do not depend on its neighbours. For 16 rows of 49,152
logits this takes no longer than operations over the whole batch, which fit less well into the processor's cache (two
cores, 2026-11-29). Not all tokens are sorted: that takes 5 to 8 ms for one row.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ftpipe.inference.constrained_decoding import GrammarConstraint
from ftpipe.inference.request import LogitBiasError, SamplingParams

if TYPE_CHECKING:
    import torch


CANDIDATES = (256, 4096)
"""Most probable tokens that are searched for what ``top_p`` leaves, before all are sorted: 256 take 0.1 ms."""


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
        has_penalties = params.repetition_penalty != 1 or params.frequency_penalty or params.presence_penalty
        self.is_greedy = params.temperature <= 0 and not (has_penalties or params.logit_bias or constraint)
        """Whether the next token is always the one with the largest logit."""
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
            self._constraint.mask_logits(adjusted)
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

        params = self._params
        if params.temperature <= 0:
            return int(logits.argmax())
        probabilities = torch.softmax(logits / params.temperature, -1)
        if params.min_p > 0:
            probabilities.masked_fill_(probabilities < params.min_p * probabilities.max(), 0.0)
        if params.top_p >= 1 and params.top_k <= 0:
            return self._draw_index(probabilities)
        candidates, ids = self._candidates(probabilities)
        return int(ids[self._draw_index(candidates)])

    def _candidates(self, probabilities: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities and ids of the tokens that ``top_k`` and ``top_p`` leave, the most probable first."""
        import torch

        top_k, top_p, size = self._params.top_k, self._params.top_p, len(probabilities)
        limit = min(top_k, size) if top_k > 0 else size
        for count in (*(count for count in CANDIDATES if count < size), size):
            values, ids = (tensor[:limit] for tensor in probabilities.topk(count))
            mass = values.cumsum(-1, dtype=torch.float64)
            total = float(mass[-1] if len(values) == limit else probabilities.sum(dtype=torch.float64))
            if len(values) == limit or (limit == size and float(mass[-1]) >= top_p * total):
                break
        if top_p < 1:
            is_outside = mass - values >= top_p * total
            is_outside[0] = False
            values = values.masked_fill(is_outside, 0.0)
        return values, ids

    def _draw_index(self, weights: torch.Tensor) -> int:
        """An index with a probability in proportion to its weight, which need not add up to 1."""
        import torch

        cumulative = weights.cumsum(-1, dtype=torch.float64)
        point = torch.rand(1, generator=self._generator, dtype=torch.float64) * cumulative[-1]
        return min(int(torch.searchsorted(cumulative, point, right=True)), len(weights) - 1)
