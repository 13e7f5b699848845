"""LoRA adapters in the layout of the fused layers of ``Decoder``, for rows that have different adapters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.inference.batch_model import Precision
from ftpipe.inference.packed_linear import pack_linear
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
    """An adapter that is more than two matrices for some linear layers."""


@dataclass(frozen=True)
class LoraPair:
    """The two matrices of a fused layer: the second has the scale, and a row for each output of the fused layer."""

    down: torch.Tensor
    up: torch.Tensor


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


class PackedLora:
    """An adapter's matrices in the layout of the processor.

    Each adapter is computed by itself, for its own rows: as one product with the matrices of all, an answer would
    depend on which other adapters are in the batch, as the order of a sum depends on the number of columns.

    Args:
        pairs: Its matrices.
        dtype: Of the products: bfloat16 or float32.
        device: Of the base model.
    """

    def __init__(self, pairs: Mapping[LayerKey, LoraPair], dtype: torch.dtype, device: torch.device) -> None:
        precision: Precision = "bfloat16" if dtype.itemsize == 2 else "float32"
        self._layers = {
            key: (
                pack_linear(pair.down.to(device), None, precision),
                pack_linear(pair.up.to(device), None, precision),
            )
            for key, pair in pairs.items()
        }

    def has_layer(self, key: LayerKey) -> bool:
        """Whether it changes a fused layer."""
        return key in self._layers

    def add_to(self, output: torch.Tensor, inputs: torch.Tensor, key: LayerKey) -> None:
        """Add what it says for the inputs of a fused layer to the layer's output, a row for each input."""
        down, up = self._layers[key]
        output.add_(up(down(inputs)))


@dataclass(frozen=True)
class LoraRows:
    """The adapters of a batch of rows, each for neighbouring rows.

    Attributes:
        parts: Adapter, first row, and the row behind the last one.
    """

    parts: tuple[tuple[PackedLora, int, int], ...]

    def add_to(self, output: torch.Tensor, inputs: torch.Tensor, key: LayerKey) -> torch.Tensor:
        """The output of a fused layer, in float32, with what the rows' adapters add."""
        parts = [part for part in self.parts if part[0].has_layer(key)]
        if not parts:
            return output
        output = output.float()
        for lora, start, end in parts:
            lora.add_to(output[start:end], inputs[start:end], key)
        return output
