"""Read LoRA adapters in the layout of the fused layers of ``Decoder``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.modeling.loading import check_adapter

if TYPE_CHECKING:
    import torch

FUSED_LAYERS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "output": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""Layers with the same input, which are one layer with all of their outputs here."""
_PREFIX = "base_model.model."
_UNSUPPORTED_SETTINGS = (
    "use_dora",
    "use_qalora",
    "fan_in_fan_out",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
    "layer_replication",
    "megatron_config",
    "alora_invocation_tokens",
    "target_parameters",
    "arrow_config",
    "use_bdlora",
    "monteclora_config",
    "alpha_pattern",
    "rank_pattern",
)
"""Settings of peft's ``LoraConfig`` that change what is computed; adapters with one of them are left to peft."""

LayerKey = tuple[int, str]
"""Number of the layer, and a key of ``FUSED_LAYERS``."""


class UnsupportedAdapterError(Exception):
    """An adapter that is more than two matrices of numbers for some linear layers."""


@dataclass(frozen=True)
class LoraPair:
    """The two matrices of a fused layer: the second has the scale, and a row for each output of the fused layer."""

    down: torch.Tensor
    up: torch.Tensor

    @property
    def is_finite(self) -> bool:
        """Whether no weight is infinite or not a number."""
        return bool(self.down.isfinite().all() and self.up.isfinite().all())


def read_lora(adapter: Path, outputs: Mapping[str, tuple[int, ...]], layers: int) -> dict[LayerKey, LoraPair]:
    """The matrices of an adapter's folder.

    Args:
        adapter: Its folder, as peft writes it.
        outputs: For each fused layer the number of outputs of its parts.
        layers: Number of layers of the base model.

    Raises:
        UnsupportedAdapterError: The adapter has other parts; peft can load it.
        NotFoundError: There is no such adapter.
    """
    from safetensors.torch import load_file

    check_adapter(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    _check_kind(config)
    tensors = {
        key.removeprefix(_PREFIX): value for key, value in load_file(adapter / "adapter_model.safetensors").items()
    }
    pairs: dict[LayerKey, LoraPair] = {}
    for layer in range(layers):
        for name, parts in FUSED_LAYERS.items():
            modules = [f"model.layers.{layer}.{part}" for part in parts]
            pair = _fused_pair(tensors, modules, outputs[name], config)
            if pair is not None:
                pairs[layer, name] = pair
    if not all(pair.is_finite for pair in pairs.values()):  # it would spoil the answers that are computed with it
        raise UnsupportedAdapterError("the adapter has weights that are not numbers")
    if tensors or not pairs:
        message = f"the adapter has weights of {next(iter(tensors), 'no layer')}"
        raise UnsupportedAdapterError(message)
    return pairs


def _check_kind(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        raise UnsupportedAdapterError("the adapter is not plain LoRA")
    used = [name for name in _UNSUPPORTED_SETTINGS if config.get(name)]
    if used:
        raise UnsupportedAdapterError(f"the adapter uses {', '.join(used)}")


def _fused_pair(
    tensors: dict[str, torch.Tensor], modules: Sequence[str], outputs: Sequence[int], config: Mapping[str, Any]
) -> LoraPair | None:
    """The matrices of layers that are fused, taken out of ``tensors``; ``None`` if the adapter does not change them."""
    import torch

    downs: list[torch.Tensor] = []
    ups: list[torch.Tensor] = []
    start = 0
    for module, count in zip(modules, outputs, strict=True):
        down = tensors.pop(f"{module}.lora_A.weight", None)
        up = tensors.pop(f"{module}.lora_B.weight", None)
        if down is not None and up is not None:
            if up.shape[0] != count:
                raise UnsupportedAdapterError(f"{module} has another size")
            rank = down.shape[0]
            scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
            fused = torch.zeros(sum(outputs), rank)
            fused[start : start + count] = up.float() * scale
            downs.append(down.float())
            ups.append(fused)
        start += count
    return LoraPair(torch.cat(downs), torch.cat(ups, 1)) if downs else None
