"""Estimate from a model's shape how many parameters it has, and how much memory its training needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SAMPLE_ROWS, SAMPLE_TOKENS = 4, 256
"""The batch that estimates are made for: rows, and tokens of each."""
SAMPLE_RANK = 16
"""Rank of the adapter that estimates are made for, on the query and value projections."""
BYTES_PER_WEIGHT = 4
"""In float32, which every processor computes; bfloat16, where it is faster, needs half of that."""
IMPORT_BYTES, OVERHEAD_BYTES = 388_000_000, 120_000_000
BYTES_PER_ADAPTER_PARAMETER = 12
"""Weight, gradient, and two moments of the optimizer in its own precision."""
SAVED_FACTOR = 1.6
"""Peak of the backward pass over what the forward pass saved."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The dimensions of a dense decoder: grouped-query attention and a gated MLP."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = True
    """Whether the input and output embeddings are one matrix."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape | None:
        """The shape in a ``config.json``; ``None`` for mixtures of experts and whatever else it does not describe."""
        config = config.get("text_config") or config
        names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
        numbers = [config.get(name) for name in names]
        layers, hidden, intermediate, heads, vocabulary = (n if isinstance(n, int) and n > 0 else 0 for n in numbers)
        if not (layers and hidden and intermediate and heads and vocabulary) or any("expert" in key for key in config):
            return None
        return cls(
            layers=layers,
            hidden=hidden,
            intermediate=intermediate,
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            vocabulary=vocabulary,
            tied=bool(config.get("tie_word_embeddings", True)),
        )

    @property
    def parameters(self) -> int:
        """Number of parameters; biases, which some families have, are left out."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (2 * queries + 2 * keys)
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.layers * layer + self.hidden + self.vocabulary * self.hidden * (1 if self.tied else 2)


def training_bytes(shape: ModelShape, *, tokens: int = SAMPLE_ROWS * SAMPLE_TOKENS) -> int:
    """Peak memory of training an adapter on batches of so many tokens, on a CPU in float32.

    Source: measured on six configurations of 135M to 1.1B parameters, 256 to 2,048 tokens; within 6 %, 2026-11-28.
    """
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    targets = 2 * (2 * shape.hidden + SAMPLE_RANK)
    per_token = 2 * shape.hidden + 2 * queries + 2 * keys + 3 * shape.intermediate + targets
    saved = tokens * shape.layers * per_token * BYTES_PER_WEIGHT
    adapter = shape.layers * SAMPLE_RANK * (2 * shape.hidden + queries + keys)
    fixed = IMPORT_BYTES + OVERHEAD_BYTES + BYTES_PER_ADAPTER_PARAMETER * adapter
    return fixed + BYTES_PER_WEIGHT * shape.parameters + round(SAVED_FACTOR * saved)
