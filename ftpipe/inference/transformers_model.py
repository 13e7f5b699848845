"""A batch model on transformers' forward pass: any architecture, one sequence after the other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ftpipe.inference.batch_model import MAX_ADAPTERS, BatchSequence
from ftpipe.modeling.loading import cache_argument, load_adapter, read_adapter_files
from ftpipe.modeling.types import Cache, CausalModel

if TYPE_CHECKING:
    import torch

MAX_CACHE_BYTES = 4 << 30
"""Of keys and values of open sequences, if more than one is open."""


class TransformersModel:
    """Computes each sequence by itself with a cache of transformers; see ``BatchModel`` for the methods.

    Args:
        model: A base model from ``load_base``.
    """

    max_sequences = 16
    is_sequential = True

    def __init__(self, model: CausalModel) -> None:
        self.vocabulary_size = int(model.get_output_embeddings().weight.shape[0])
        parameter = next(model.parameters())
        self._device = parameter.device
        self._config = model.config.get_text_config()
        self._bytes_per_token = _bytes_per_token(self._config, parameter.element_size())
        self._model = model
        self._cache_name = cache_argument(model)
        self._adapters: OrderedDict[Path, str] = OrderedDict()
        self._active_adapter: Path | None = None
        self._adapter_count = 0
        self._caches: dict[BatchSequence, Cache] = {}

    def read_adapter(self, adapter: Path) -> None:
        """See ``BatchModel``."""
        if adapter not in self._adapters:
            read_adapter_files(adapter)

    def has_room(self, max_length: int) -> bool:
        """Whether all open sequences and this one fit, at their full length."""
        tokens = sum(sequence.max_length for sequence in self._caches) + max_length
        return not self._caches or tokens * self._bytes_per_token <= MAX_CACHE_BYTES

    def open_sequence(
        self, adapter: Path | None, prompt: Sequence[int], max_length: int, *, needs_prompt_logits: bool = False
    ) -> BatchSequence:
        """Load the adapter; see ``BatchModel``."""
        from transformers import DynamicCache

        if adapter is not None and adapter not in self._adapters:
            self._load_adapter(adapter)
        sequence = BatchSequence(
            adapter=adapter, prompt=tuple(prompt), max_length=max_length, needs_prompt_logits=needs_prompt_logits
        )
        self._caches[sequence] = DynamicCache(config=self._config)
        return sequence

    def prefill(self, sequences: Sequence[BatchSequence], *, chunks: int = 1) -> list[torch.Tensor | None]:
        """See ``BatchModel``."""
        logits: list[torch.Tensor | None] = []
        for sequence in sequences:
            logits_TV = self._forward(sequence, sequence.next_tokens(chunks))
            last = logits_TV[-1] if sequence.is_prefilled else None
            logits.append(logits_TV if sequence.needs_prompt_logits else last)
        return logits

    def decode(self, sequences: Sequence[BatchSequence], tokens: Sequence[int]) -> torch.Tensor:
        """See ``BatchModel``."""
        import torch

        pairs = zip(sequences, tokens, strict=True)
        return torch.cat([self._forward(sequence, (token,)) for sequence, token in pairs])

    def close_sequence(self, sequence: BatchSequence) -> None:
        """See ``BatchModel``."""
        self._caches.pop(sequence, None)

    def _forward(self, sequence: BatchSequence, ids: tuple[int, ...]) -> torch.Tensor:
        import torch

        with torch.inference_mode():
            self._activate_adapter(sequence.adapter)
            causal = self._model.get_base_model() if self._adapters else self._model
            ids_1T = torch.tensor([ids], device=self._device)
            rows = len(ids) if sequence.needs_prompt_logits else 1
            cache = {self._cache_name: self._caches[sequence]}
            output = causal(input_ids=ids_1T, use_cache=True, logits_to_keep=rows, **cache)
            sequence.length += len(ids)
            logits_TV: torch.Tensor = output.logits[0].float().cpu()
            return logits_TV

    def _activate_adapter(self, adapter: Path | None) -> None:
        if adapter is not None and adapter not in self._adapters:
            self._load_adapter(adapter)  # dropped for others since the sequence was opened
        if adapter == self._active_adapter:
            return
        if adapter is None:
            self._model.base_model.disable_adapter_layers()
        else:
            self._model.base_model.enable_adapter_layers()
            self._model.set_adapter(self._adapters[adapter])
            self._adapters.move_to_end(adapter)
        self._active_adapter = adapter

    def _load_adapter(self, adapter: Path) -> None:
        """Attach an adapter: 0.1 s of processor time if its files were read before (SmolLM2-135M, 2026-11-28)."""
        self._adapter_count += 1
        name = f"adapter{self._adapter_count}"
        self._model = load_adapter(self._model, adapter, name=name)
        self._model.eval()
        self._adapters[adapter] = name
        if len(self._adapters) > MAX_ADAPTERS:
            oldest = next(path for path in self._adapters if path not in (self._active_adapter, adapter))
            self._model.delete_adapter(self._adapters.pop(oldest))
        if len(self._adapters) == 1:
            # wrapping has enabled the adapter; the next comparison must not take the base model for active
            self._active_adapter = adapter


def _bytes_per_token(config: object, element_size: int) -> int:
    """Of keys and values; of a model with other caches, more than that."""
    heads = int(getattr(config, "num_attention_heads", None) or 1)
    key_value_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    hidden_size = int(getattr(config, "hidden_size", None) or 1)
    head_size = int(getattr(config, "head_dim", None) or hidden_size // heads)
    layers = int(getattr(config, "num_hidden_layers", None) or 1)
    return 2 * layers * key_value_heads * head_size * element_size
