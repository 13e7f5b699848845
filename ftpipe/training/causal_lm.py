"""A causal language model split into decoder and head, so that logits are computed only for trained tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftpipe.errors import NotFoundError
from ftpipe.modeling.chat_tokenizer import IGNORE_INDEX, Example
from ftpipe.modeling.loading import cache_argument
from ftpipe.modeling.types import Cache, CausalModel
from ftpipe.training.batching import common_prefix_length

if TYPE_CHECKING:
    import torch

PROBE_LENGTH = 12
"""Tokens of the sequence that a newly loaded model is checked with."""


@dataclass(frozen=True)
class HiddenStates:
    """Hidden states that predict a trained token.

    Attributes:
        hidden_ND: One state per trained token; N tokens, D the model's width.
        targets_N: The token that each must predict.
        rows_N: Index in the batch of the example that each belongs to.
    """

    hidden_ND: torch.Tensor
    targets_N: torch.Tensor
    rows_N: torch.Tensor


class LanguageModel:
    """A causal language model whose head runs only where there is a label.

    The vocabulary projection and the softmax over it cost more than the whole decoder of a small model, and most
    positions of a conversation (system, user) predict nothing that is trained.

    Attributes:
        shares_prefix: Whether the common prefix of a batch is computed once.
    """

    def __init__(self, model: CausalModel, *, share_prefix: bool = True) -> None:
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.model = model
        self.decoder = causal.get_decoder()
        self.config = causal.config.get_text_config()
        self._head = causal.get_output_embeddings()
        self._cache_name = cache_argument(self.decoder)
        self.device = next(causal.parameters()).device
        self.shares_prefix = False
        was_training = model.training
        model.eval()  # dropout would make two passes differ
        self._check_head(causal)
        self.shares_prefix = (
            share_prefix and not getattr(self.config, "sliding_window", None) and self._can_share_prefix()
        )
        model.train(was_training)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits in float32 of hidden states, as in the model's own forward pass."""
        import torch

        logits = self._head(hidden)
        if getattr(self.config, "logits_scaling", None):
            logits = logits / self.config.logits_scaling
        if getattr(self.config, "logit_scale", None):
            logits = logits * self.config.logit_scale
        cap = getattr(self.config, "final_logit_softcapping", None)
        if cap:
            logits = torch.tanh(logits / cap) * cap
        return logits.float()

    def hidden_states(self, examples: Sequence[Example]) -> HiddenStates:
        """Run the decoder over a batch and pick the states that predict a label.

        Rows are padded on the right without an attention mask: a causal model does not see later positions.
        """
        import torch

        prefix = common_prefix_length(examples) if self.shares_prefix else 0
        ids_BT, labels_BT = self._pad([example.ids[prefix:] for example in examples], _next_labels(examples, prefix))
        cache = self._run_prefix(examples[0].ids[:prefix], len(examples)) if prefix else None
        hidden_BTD = self._decode(ids_BT, cache)
        mask_BT = labels_BT != IGNORE_INDEX
        rows_BT = torch.arange(len(examples), device=self.device)[:, None].expand_as(labels_BT)
        return HiddenStates(hidden_BTD[mask_BT], labels_BT[mask_BT], rows_BT[mask_BT])

    def _decode(self, ids_BT: torch.Tensor, cache: Cache = None) -> torch.Tensor:
        extra = {} if cache is None else {self._cache_name: cache}
        hidden_BTD: torch.Tensor = self.decoder(
            input_ids=ids_BT, use_cache=cache is not None, **extra
        ).last_hidden_state
        return hidden_BTD

    def _run_prefix(self, ids: Sequence[int], rows: int) -> Cache:
        """Keys and values of the common prefix, computed once; the gradients of all rows add up in them."""
        import torch
        from transformers import DynamicCache

        start_1P = torch.tensor([list(ids)], device=self.device)
        cache = DynamicCache()
        self._decode(start_1P, cache)
        for layer in cache.layers:
            layer.keys = layer.keys.expand(rows, -1, -1, -1)
            layer.values = layer.values.expand(rows, -1, -1, -1)
        return cache

    def _pad(self, ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        width = max(len(row) for row in ids)
        ids_BT = torch.zeros(len(ids), width, dtype=torch.long)
        labels_BT = torch.full((len(ids), width), IGNORE_INDEX, dtype=torch.long)
        for index, (row, targets) in enumerate(zip(ids, labels, strict=True)):
            ids_BT[index, : len(row)] = torch.tensor(list(row))
            labels_BT[index, : len(row)] = torch.tensor(list(targets))
        return ids_BT.to(self.device), labels_BT.to(self.device)

    def _check_head(self, causal: CausalModel) -> None:
        """Refuse a model whose logits ``head`` does not reproduce."""
        import torch

        probe = torch.arange(PROBE_LENGTH, device=self.device)[None] % self.config.vocab_size
        with torch.no_grad():
            expected = causal(input_ids=probe, use_cache=False).logits.float()
            actual = self.head(self._decode(probe))
        if not torch.allclose(expected, actual, rtol=1e-2, atol=1e-2):
            raise NotFoundError(
                f"models of type {self.config.model_type!r} have logits that the trainer cannot compute",
                "choose a base model of another family, for example Llama, Qwen, Gemma, Mistral or SmolLM",
            )

    def _can_share_prefix(self) -> bool:
        """Try it: not every cache can be expanded to several rows (sliding windows, recurrent states)."""
        import torch

        ids = [index % self.config.vocab_size for index in range(PROBE_LENGTH)]
        rows = [Example(tuple([*ids, last]), (*[IGNORE_INDEX] * PROBE_LENGTH, last)) for last in (0, 1)]
        try:
            with torch.no_grad():
                plain = self.hidden_states(rows).hidden_ND
                self.shares_prefix = True
                shared = self.hidden_states(rows).hidden_ND
        except (TypeError, AttributeError, RuntimeError, ValueError):
            return False
        finally:
            self.shares_prefix = False
        return bool(torch.allclose(plain.float(), shared.float(), rtol=2e-2, atol=2e-2))


def _next_labels(examples: Sequence[Example], prefix: int) -> list[list[int]]:
    """Labels shifted left by one: a position's label is the token that it must predict."""
    return [[*example.labels[prefix + 1 :], IGNORE_INDEX] for example in examples]
