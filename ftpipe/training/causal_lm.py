"""A causal language model as one module that computes the loss of examples, with logits for trained tokens only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ftpipe.errors import NotFoundError
from ftpipe.modeling.chat_tokenizer import IGNORE_INDEX, Example
from ftpipe.modeling.memory import HEAD_CHUNK_TOKENS
from ftpipe.modeling.types import CausalModel
from ftpipe.training.batching import common_prefix_length
from ftpipe.training.hyperparameters import MAX_MICRO_BATCH_TOKENS

PROBE_LENGTH = 12
"""Tokens of the sequence that a newly loaded model is checked with."""
MIN_DIFFERENCE = 1e-3
"""Part of a hidden state that may differ by rounding in any precision."""
ROUNDING_STEPS = 6.0
"""The same in steps of a low precision: 4.7 % in bfloat16."""
ATTENTION_COST = 4.0
"""Time of a multiplication in attention over one in a linear layer, which large matrix products compute faster."""


@dataclass(frozen=True)
class _TokenBatch:
    """Examples as tensors: S sequences of T positions.

    Attributes:
        ids_ST: Token ids.
        labels_ST: The token that each position must predict, ``IGNORE_INDEX`` if it is not trained.
        rows_ST: Index of the example that each position belongs to.
        inputs: Further arguments of the decoder.
    """

    ids_ST: torch.Tensor
    labels_ST: torch.Tensor
    rows_ST: torch.Tensor
    inputs: dict[str, torch.Tensor]


class LanguageModel(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Computes the loss of examples; DDP and FSDP wrap this module, so nothing that trains may go past it.

    The head runs only where there is a label: the vocabulary projection and the softmax over it cost more than the
    whole decoder of a small model, and most positions of a conversation (system, user) predict nothing that is trained.

    Examples with a common beginning are packed into one sequence that contains it once; a mask keeps the examples
    apart. A cache of keys and values would need two passes through the decoder, which FSDP does not allow.

    Attributes:
        shares_prefix: Whether the common prefix of a batch is computed once.
        micro_batch_tokens: Padded tokens that are computed together.
    """

    def __init__(
        self, model: CausalModel, *, share_prefix: bool = True, micro_batch_tokens: int = MAX_MICRO_BATCH_TOKENS
    ) -> None:
        super().__init__()
        self.micro_batch_tokens = micro_batch_tokens
        self.model = model
        self.config = self._causal.config.get_text_config()
        self.shares_prefix = False
        was_training = model.training
        model.eval()  # dropout would make two passes differ
        self._check_head()
        self.shares_prefix = (
            share_prefix and not getattr(self.config, "sliding_window", None) and self._can_share_prefix()
        )
        self.train(was_training)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def _causal(self) -> CausalModel:
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def layers(self) -> list[torch.nn.Module]:
        """The layers of the decoder, which FSDP shards one by one."""
        names = set(self._causal._no_split_modules or ())
        return [module for module in self.modules() if type(module).__name__ in names]

    def forward(self, examples: Sequence[Example], *, by_token: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each example: cross-entropy in nats, summed over its trained tokens; this has a gradient.

        Args:
            examples: The examples.
            by_token: Return a loss for each trained token instead, those of the first example first.

        Returns:
            The losses, and how many trained tokens of each example were predicted correctly.
        """
        batch = self._batch(examples)
        hidden_STD = self._causal.get_decoder()(input_ids=batch.ids_ST, use_cache=False, **batch.inputs)[0]
        trained_ST = batch.labels_ST != IGNORE_INDEX
        losses_N, correct_N = self._token_losses(hidden_STD[trained_ST], batch.labels_ST[trained_ST])
        if by_token:
            return losses_N, correct_N
        zeros_R, rows_N = torch.zeros(len(examples), device=losses_N.device), batch.rows_ST[trained_ST]
        return zeros_R.index_add(0, rows_N, losses_N), zeros_R.index_add(0, rows_N, correct_N)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits in float32 of hidden states, as in the model's own forward pass."""
        logits = self._causal.get_output_embeddings()(hidden)
        if getattr(self.config, "logits_scaling", None):
            logits = logits / self.config.logits_scaling
        if getattr(self.config, "logit_scale", None):
            logits = logits * self.config.logit_scale
        cap = getattr(self.config, "final_logit_softcapping", None)
        if cap:
            logits = torch.tanh(logits / cap) * cap
        return logits.float()

    def _token_losses(self, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not any(parameter.requires_grad for parameter in self._causal.get_output_embeddings().parameters()):
            losses_N, correct_N = _FrozenHeadLosses.apply(hidden_ND, targets_N, self._chunk_losses)
            return losses_N, correct_N
        # The head itself is trained; its logits are computed again in the backward pass, chunk by chunk.
        from torch.utils.checkpoint import checkpoint

        chunks = zip(hidden_ND.split(HEAD_CHUNK_TOKENS), targets_N.split(HEAD_CHUNK_TOKENS), strict=True)
        parts = [checkpoint(self._chunk_losses, *chunk, use_reentrant=False) for chunk in chunks]
        return torch.cat([losses for losses, _ in parts]), torch.cat([correct for _, correct in parts])

    def _chunk_losses(self, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits_NV = self.head(hidden_ND)
        losses_N = torch.nn.functional.cross_entropy(logits_NV, targets_N, reduction="none")
        return losses_N, (logits_NV.detach().argmax(-1) == targets_N).float()

    def _batch(self, examples: Sequence[Example]) -> _TokenBatch:
        return self._pack(examples, common_prefix_length(examples)) if self.is_packed(examples) else self._pad(examples)

    def is_packed(self, examples: Sequence[Example]) -> bool:
        """Whether examples are computed as one sequence: if that takes less time than padded rows without a mask.

        It has fewer tokens, but a kernel for masks computes all pairs of positions, also those that the mask forbids.
        """
        prefix = common_prefix_length(examples) if self.shares_prefix else 0
        if not prefix:
            return False
        lengths = [len(example.ids) for example in examples]
        packed, width = prefix + sum(length - prefix for length in lengths), max(lengths)
        packed_cost = packed + packed**2 * self._pair_cost
        padded_cost = len(lengths) * (width + width**2 / 2 * self._pair_cost)
        return bool(packed_cost < padded_cost)

    @property
    def _pair_cost(self) -> float:
        """Time that attention takes for a pair of positions, over the time that linear layers take for a token."""
        hidden = self.config.hidden_size
        queries = self.config.num_attention_heads * (
            getattr(self.config, "head_dim", None) or hidden // self.config.num_attention_heads
        )
        inner = getattr(self.config, "intermediate_size", None) or 4 * hidden
        return float(ATTENTION_COST * 2 * queries / (4 * hidden * queries + 3 * hidden * inner))

    def _pack(self, examples: Sequence[Example], prefix: int, *, keeps_apart: bool = True) -> _TokenBatch:
        """All examples as one sequence: the common prefix, then the rest of each, which sees it and itself only.

        With ``keeps_apart=False`` it also sees the examples before, which is wrong.
        """
        ids, labels = list(examples[0].ids[:prefix]), [IGNORE_INDEX] * prefix
        positions, rows = list(range(prefix)), [-1] * prefix
        for index, example in enumerate(examples):
            ids += example.ids[prefix:]
            labels += [*example.labels[prefix + 1 :], IGNORE_INDEX]
            positions += range(prefix, len(example.ids))
            rows += [index] * (len(example.ids) - prefix)
        ids_1T, labels_1T, positions_1T, rows_1T = (
            torch.tensor([values], device=self.device) for values in (ids, labels, positions, rows)
        )
        order_T, rows_T = torch.arange(len(ids), device=self.device), rows_1T[0]
        is_visible_TT = order_T <= order_T[:, None]
        if keeps_apart:
            is_visible_TT &= (rows_T == -1) | (rows_T == rows_T[:, None])
        mask_11TT = is_visible_TT[None, None]
        if self.config._attn_implementation == "eager":  # it adds the mask to the scores
            mask_11TT = torch.where(mask_11TT, 0.0, torch.finfo(torch.float32).min)
        return _TokenBatch(ids_1T, labels_1T, rows_1T, {"attention_mask": mask_11TT, "position_ids": positions_1T})

    def _pad(self, examples: Sequence[Example]) -> _TokenBatch:
        """Rows padded on the right without a mask: a causal model does not see later positions."""
        width = max(len(example.ids) for example in examples)
        ids_BT = torch.zeros(len(examples), width, dtype=torch.long)
        labels_BT = torch.full((len(examples), width), IGNORE_INDEX, dtype=torch.long)
        for index, example in enumerate(examples):
            ids_BT[index, : len(example.ids)] = torch.tensor(example.ids)
            labels_BT[index, : len(example.ids) - 1] = torch.tensor(example.labels[1:])
        rows_BT = torch.arange(len(examples), device=self.device)[:, None].expand(-1, width)
        return _TokenBatch(ids_BT.to(self.device), labels_BT.to(self.device), rows_BT, {})

    def _check_head(self) -> None:
        """Refuse a model whose logits ``head`` does not reproduce."""
        probe = torch.arange(PROBE_LENGTH, device=self.device)[None] % self.config.vocab_size
        with torch.no_grad():
            expected = self._causal(input_ids=probe, use_cache=False).logits.float()
            actual = self.head(self._causal.get_decoder()(input_ids=probe, use_cache=False)[0])
        if not torch.allclose(expected, actual, rtol=1e-2, atol=1e-2):
            raise NotFoundError(
                f"models of type {self.config.model_type!r} have logits that the trainer cannot compute",
                "choose a base model of another family, for example Llama, Qwen, Gemma, Mistral or SmolLM",
            )

    def _can_share_prefix(self) -> bool:
        """Try it: not every decoder keeps packed rows apart (sliding windows, recurrent states).

        Rounding makes a difference, too: with the default base model and bfloat16 up to 1.6 % of a hidden state, where
        rows that see each other make 17 % and more. So the limit depends on the precision and on that difference.
        """
        vocabulary = self.config.vocab_size
        start = [index % vocabulary for index in range(PROBE_LENGTH)]
        rows = []
        for first in (PROBE_LENGTH, 2 * PROBE_LENGTH):
            end = [(first + index) % vocabulary for index in range(PROBE_LENGTH)]
            rows.append(Example((*start, *end), (*[IGNORE_INDEX] * (PROBE_LENGTH + 1), *end[1:])))
        packed, mixed = self._pack(rows, PROBE_LENGTH), self._pack(rows, PROBE_LENGTH, keeps_apart=False)
        try:
            with torch.no_grad():
                plain_ND, packed_ND, mixed_ND = map(self._probe, (self._pad(rows), packed, mixed))
        except (TypeError, AttributeError, RuntimeError, ValueError):
            return False
        limit = max(MIN_DIFFERENCE, ROUNDING_STEPS * float(torch.finfo(packed_ND.dtype).eps))
        difference = _largest_difference(plain_ND, packed_ND)
        return difference <= min(limit, _largest_difference(plain_ND, mixed_ND) / 2)

    def _probe(self, batch: _TokenBatch) -> torch.Tensor:
        hidden_STD = self._causal.get_decoder()(input_ids=batch.ids_ST, use_cache=False, **batch.inputs)[0]
        return hidden_STD[batch.labels_ST != IGNORE_INDEX]


def _largest_difference(expected_ND: torch.Tensor, actual_ND: torch.Tensor) -> float:
    """The largest difference of a hidden state, over its length."""
    expected_ND, actual_ND = expected_ND.float(), actual_ND.float()
    return float(((expected_ND - actual_ND).norm(dim=-1) / expected_ND.norm(dim=-1)).max())


class _FrozenHeadLosses(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """Loss of each token under a frozen head, with the gradient of its hidden state computed along with it.

    A token's loss depends on its own hidden state alone, so that gradient times the loss's is all that the backward
    pass needs, and the logits of a whole batch never exist at the same time.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's context
        hidden_ND: torch.Tensor,
        targets_N: torch.Tensor,
        chunk_losses: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        needs_gradient = ctx.needs_input_grad[0]
        losses, correct, gradients = [], [], []
        for hidden, targets in zip(hidden_ND.split(HEAD_CHUNK_TOKENS), targets_N.split(HEAD_CHUNK_TOKENS), strict=True):
            with torch.set_grad_enabled(needs_gradient):
                leaf = hidden.detach().requires_grad_(needs_gradient)
                part, part_correct = chunk_losses(leaf, targets)
            if needs_gradient:
                gradients += torch.autograd.grad(part, leaf, torch.ones_like(part))
            losses.append(part.detach())
            correct.append(part_correct)
        if needs_gradient:
            ctx.save_for_backward(torch.cat(gradients))
        correct_N = torch.cat(correct)
        ctx.mark_non_differentiable(correct_N)
        return torch.cat(losses), correct_N

    @staticmethod
    def backward(ctx: Any, gradient_N: torch.Tensor, _correct: object) -> tuple[torch.Tensor, None, None]:  # noqa: ANN401
        (gradient_ND,) = ctx.saved_tensors
        return gradient_ND * gradient_N[:, None].to(gradient_ND.dtype), None, None
