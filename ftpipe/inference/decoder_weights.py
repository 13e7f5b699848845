"""The weights of models that are built like Llama, with layers of the same input fused into one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftpipe.inference.batch_model import Precision
from ftpipe.inference.lora_weights import FUSED_LAYERS
from ftpipe.inference.packed_linear import PackedLinear, pack_linear
from ftpipe.modeling.types import CausalModel

if TYPE_CHECKING:
    import torch

SUPPORTED_ARCHITECTURES = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
_STATIC_ROPE_TYPES = {"default", "linear", "llama3", "yarn"}
"""Others depend on the length of the sequence."""


@dataclass(frozen=True)
class DecoderLayer:
    """One layer; ``fused`` has the keys of ``FUSED_LAYERS``."""

    fused: dict[str, PackedLinear]
    input_norm: torch.Tensor
    output_norm: torch.Tensor
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None


@dataclass(frozen=True)
class DecoderWeights:
    """All weights, the sizes, and cosine and sine of the rotation of each position."""

    dtype: torch.dtype
    """Of activations."""
    embeddings: torch.Tensor
    layers: list[DecoderLayer]
    norm: torch.Tensor
    head: PackedLinear
    cosine: torch.Tensor
    sine: torch.Tensor
    epsilon: float
    heads: int
    key_value_heads: int
    head_size: int
    fused_outputs: dict[str, tuple[int, ...]]
    vocabulary_size: int


def is_supported(model: CausalModel) -> bool:
    """Whether ``Decoder`` computes what a model of transformers computes."""
    config = model.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    layer_types = set(getattr(config, "layer_types", None) or ())
    has_window = window is not None and window < config.max_position_embeddings and layer_types != {"full_attention"}
    return (
        type(model).__name__ in SUPPORTED_ARCHITECTURES
        and rope in _STATIC_ROPE_TYPES
        and config.hidden_act == "silu"
        and not has_window
        and layer_types <= {"full_attention", "sliding_attention"}
        and not getattr(model, "is_quantized", False)
    )


def pack_weights(model: CausalModel, precision: Precision) -> DecoderWeights:
    """The weights of a model for which ``is_supported`` is true."""
    import torch

    config, inner = model.config, model.model
    attention = inner.layers[0].self_attn
    positions = torch.arange(config.max_position_embeddings, device=inner.embed_tokens.weight.device)[None]
    with torch.inference_mode():
        cosine, sine = inner.rotary_emb(torch.zeros(1, device=positions.device), positions)
        half = sine.shape[-1] // 2
        sine = torch.cat([-sine[..., :half], sine[..., half:]], -1)
        layers = [_pack_layer(layer, precision) for layer in inner.layers]
        head = model.get_output_embeddings()
        return DecoderWeights(
            dtype=torch.bfloat16 if precision == "bfloat16" else torch.float32,
            embeddings=inner.embed_tokens.weight.detach(),
            layers=layers,
            norm=inner.norm.weight.detach().float(),
            head=pack_linear(head.weight, head.bias, precision),
            cosine=cosine[0, :, None],
            sine=sine[0, :, None],
            epsilon=float(config.rms_norm_eps),
            heads=int(config.num_attention_heads),
            key_value_heads=int(config.num_key_value_heads),
            head_size=int(attention.head_dim),
            fused_outputs={
                name: tuple(int(inner.layers[0].get_submodule(part).weight.shape[0]) for part in parts)
                for name, parts in FUSED_LAYERS.items()
            },
            vocabulary_size=int(head.weight.shape[0]),
        )


def _pack_layer(layer: torch.nn.Module, precision: Precision) -> DecoderLayer:
    import torch

    fused: dict[str, PackedLinear] = {}
    for name, parts in FUSED_LAYERS.items():
        modules = [layer.get_submodule(part) for part in parts]
        biases = [module.bias for module in modules]
        bias = None if biases[0] is None else torch.cat(biases)
        fused[name] = pack_linear(torch.cat([module.weight for module in modules]), bias, precision)
    norms = [
        layer.get_submodule(name).weight.detach().float() for name in ("input_layernorm", "post_attention_layernorm")
    ]
    head_norms = [
        getattr(layer.get_submodule("self_attn"), name).weight.detach().float()
        if hasattr(layer.get_submodule("self_attn"), name)
        else None
        for name in ("q_norm", "k_norm")
    ]
    return DecoderLayer(fused, norms[0], norms[1], head_norms[0], head_norms[1])
