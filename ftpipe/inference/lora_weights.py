"""LoRA adapters in the layout of the fused layers of ``Decoder``, for rows that have different adapters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.inference.batch_model import Precision
from ftpipe.inference.packed_linear import PackedLinear, pack_linear
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
_NO_OTHER_KIND = (
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
    used = [name for name in _NO_OTHER_KIND if config.get(name)]
    if used or config.get("alpha_pattern") or config.get("rank_pattern"):
        raise UnsupportedAdapterError(", ".join(used) or "patterns of ranks or scales")


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


class LoraBatch:
    """What adapters add to fused layers, for rows of several of them.

    The matrices of all adapters are one pair; the intermediate values of a row are zero but for its own adapter's.

    Args:
        adapters: Their matrices, by folder.
        precision: Of the products.
        device: Of the base model.
    """

    def __init__(
        self, adapters: Mapping[Path, Mapping[LayerKey, LoraPair]], precision: Precision, device: torch.device
    ) -> None:
        import torch

        self.adapters = frozenset(adapters)
        self._device = device
        # a pair in int8 would save nothing: its matrices are small
        precision = "float32" if precision == "int8" else precision
        self._layers: dict[LayerKey, tuple[PackedLinear, PackedLinear, str]] = {}
        self._columns: dict[str, dict[Path, tuple[int, int]]] = {}
        self._widths: dict[str, int] = {}
        for key in sorted({key for pairs in adapters.values() for key in pairs}):
            pairs = {path: of[key] for path, of in adapters.items() if key in of}
            ranks = {path: pair.down.shape[0] for path, pair in pairs.items()}
            layout = ",".join(f"{path}:{rank}" for path, rank in ranks.items())
            if layout not in self._columns:
                ends = torch.tensor(list(ranks.values())).cumsum(0).tolist()
                self._columns[layout] = {
                    path: (end - rank, end) for (path, rank), end in zip(ranks.items(), ends, strict=True)
                }
                self._widths[layout] = ends[-1]
            down = torch.cat([pair.down for pair in pairs.values()]).to(device)
            up = torch.cat([pair.up for pair in pairs.values()], 1).to(device)
            self._layers[key] = (pack_linear(down, None, precision), pack_linear(up, None, precision), layout)

    def masks(self, rows: Sequence[Path | None]) -> dict[str, torch.Tensor | None]:
        """For each layout of columns which of them a row may use; ``None`` if each row may use all."""
        import torch

        if len(self.adapters) == 1 and all(row is not None for row in rows):
            return dict.fromkeys(self._columns)
        masks: dict[str, torch.Tensor | None] = {}
        for layout, columns in self._columns.items():
            by_adapter: dict[Path | None, torch.Tensor] = {None: torch.zeros(self._widths[layout])}
            for path, (start, end) in columns.items():
                by_adapter[path] = torch.zeros(self._widths[layout])
                by_adapter[path][start:end] = 1
            masks[layout] = torch.stack([by_adapter.get(row, by_adapter[None]) for row in rows]).to(self._device)
        return masks

    def add_to(
        self, output: torch.Tensor, rows: torch.Tensor, key: LayerKey, masks: Mapping[str, torch.Tensor | None]
    ) -> torch.Tensor:
        """The output of a fused layer with what the rows' adapters add for the input ``rows``."""
        if key not in self._layers:
            return output
        down, up, layout = self._layers[key]
        inner = down(rows)
        mask = masks[layout]
        return output.add_(up(inner if mask is None else inner * mask))
