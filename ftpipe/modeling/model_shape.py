"""The dimensions of a decoder, read from its ``config.json``: what memory and speed of training are estimated from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ATTENTION_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_LAYERS = ("gate_proj", "up_proj", "down_proj")
ALL_LINEAR = "all-linear"
MAX_DIMENSION = 10**9
"""Larger numbers in a ``config.json`` are mistakes, and products of them are no longer floats."""
_EXPERTS = ("num_local_experts", "num_experts")
_WIDTHS = ("intermediate_size",)
_EXPERT_WIDTHS = ("moe_intermediate_size", "intermediate_size")
_GEMMA = ("gemma", "gemma2", "gemma3", "gemma3_text")
_NORMALIZED_QUERIES = ("qwen3", "qwen3_moe", "gemma3", "gemma3_text")
_EAGER_ATTENTION = ("gemma2", "gpt_oss")
"""Types whose attention needs the matrix of all scores: logits with a soft cap, or with sinks.
Source: ``_supports_sdpa`` in transformers 5.24, read 2026-11-29."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The dimensions of a decoder with grouped-query attention and a gated MLP, or several of them as experts."""

    layers: int
    hidden: int
    intermediate: int
    """Width of the MLP, or of one expert."""
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = True
    """Whether the input and output embeddings are one matrix."""
    experts: int = 0
    """Experts of each layer; 0 for one MLP."""
    active_experts: int = 0
    """Experts that compute each token."""
    norms: int = 2
    """Normalizations of the hidden states in each layer."""
    normalizes_queries: bool = False
    """Whether queries and keys are normalized, too."""
    has_eager_attention: bool = False
    """Whether attention keeps the scores of all pairs of tokens."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape | None:
        """The shape in a ``config.json``; ``None`` for architectures that it does not describe."""
        config = text_config(config)
        kind = str(config.get("model_type") or "")
        if invalid_dimensions(config):
            return None
        experts = _dimension(config, _EXPERTS)
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        return cls(
            layers=config["num_hidden_layers"],
            hidden=hidden,
            intermediate=_dimension(config, _EXPERT_WIDTHS if experts else _WIDTHS),
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            vocabulary=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", True)),
            experts=experts,
            active_experts=config["num_experts_per_tok"] if experts else 0,
            norms=4 if kind in _GEMMA[1:] else 2,
            normalizes_queries=kind in _NORMALIZED_QUERIES,
            has_eager_attention=kind in _EAGER_ATTENTION,
        )

    @property
    def queries(self) -> int:
        """Width of all queries of a token."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all keys of a token, which is that of its values."""
        return self.kv_heads * self.head_dim

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """Name → inputs and outputs of the linear layers of one layer that can get an adapter."""
        hidden, queries, keys, intermediate = self.hidden, self.queries, self.keys, self.intermediate
        attention = {"q_proj": (hidden, queries), "k_proj": (hidden, keys), "v_proj": (hidden, keys)}
        attention["o_proj"] = (queries, hidden)
        if self.experts:  # transformers keeps all experts in one tensor, which is no linear layer
            return attention
        gated = {"gate_proj": (hidden, intermediate), "up_proj": (hidden, intermediate)}
        return {**attention, **gated, "down_proj": (intermediate, hidden)}

    @property
    def linear_parameters(self) -> int:
        """Weights of all linear layers, which can be quantized."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear_layers.values())

    @property
    def embedding_parameters(self) -> int:
        """Weights of the input and output embeddings."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def expert_parameters(self) -> int:
        """Weights of all experts and of the layers that choose among them."""
        return self.layers * self.experts * (3 * self.hidden * self.intermediate + self.hidden)

    @property
    def parameters(self) -> int:
        """Number of parameters; biases, which some families have, are left out."""
        norms = self.layers * self.norms * self.hidden + self.hidden
        return self.linear_parameters + self.expert_parameters + self.embedding_parameters + norms

    @property
    def active_parameters(self) -> int:
        """Weights that each token is multiplied with in the layers."""
        return self.linear_parameters + self.layers * self.active_experts * 3 * self.hidden * self.intermediate

    def adapted_layers(self, targets: Iterable[str]) -> list[tuple[int, int]]:
        """Inputs and outputs of the linear layers of one layer that ``targets`` names."""
        names = set(targets)
        return [size for name, size in self.linear_layers.items() if name in names or ALL_LINEAR in names]

    def adapter_parameters(self, targets: Iterable[str], rank: int) -> int:
        """Weights of a LoRA adapter."""
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.adapted_layers(targets))


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a ``config.json`` that describes the decoder: models that also read images have it in a part."""
    text = config.get("text_config")
    return text if isinstance(text, dict) and text else config


def context_length(config: Mapping[str, Any]) -> int | None:
    """The tokens that a model reads at most; ``None`` if its ``config.json`` does not say."""
    return _dimension(text_config(config), ("max_position_embeddings",)) or None


def invalid_dimensions(config: Mapping[str, Any]) -> list[str]:
    """The dimensions that are missing in the configuration of a decoder, or are not from 1 to ``MAX_DIMENSION``.

    Args:
        config: What ``text_config`` returns.
    """
    experts = _dimension(config, _EXPERTS)
    needed = [("num_hidden_layers",), ("hidden_size",), _EXPERT_WIDTHS if experts else _WIDTHS]
    needed += [("num_attention_heads",), ("vocab_size",), *([("num_experts_per_tok",)] if experts else [])]
    invalid = [names[-1] for names in needed if not _dimension(config, names)]
    optional = [name for name in ("num_key_value_heads", "head_dim") if config.get(name) is not None]
    invalid += [_EXPERTS[0]] if not experts and any("expert" in key for key in config) else []
    return invalid + [name for name in optional if not _dimension(config, (name,))]


def _dimension(config: Mapping[str, Any], names: Iterable[str]) -> int:
    """The first value among ``names`` that is a whole number from 1 to ``MAX_DIMENSION``, else 0."""
    values = (config.get(name) for name in names)
    return next((one for one in values if type(one) is int and 0 < one <= MAX_DIMENSION), 0)
