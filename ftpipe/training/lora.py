"""Add LoRA adapters to a base model, and save them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.errors import UsageError
from ftpipe.modeling.base_models import hub_reference
from ftpipe.modeling.loading import quiet_peft
from ftpipe.modeling.types import CausalModel
from ftpipe.training.hyperparameters import ResolvedHyperparameters

if TYPE_CHECKING:
    import torch


def add_adapter(base: CausalModel, hyperparameters: ResolvedHyperparameters, *, seed: int) -> CausalModel:
    """``base`` with a new LoRA adapter; the same seed gives the same weights.

    Raises:
        UsageError: The base model has no layers of these names.
    """
    import torch
    from peft import LoraConfig, TaskType, get_peft_model

    targets: Any = (
        "all-linear" if hyperparameters.target_modules == ("all-linear",) else list(hyperparameters.target_modules)
    )
    config = LoraConfig(
        r=hyperparameters.lora_r,
        lora_alpha=hyperparameters.lora_alpha,
        lora_dropout=hyperparameters.lora_dropout,
        target_modules=targets,
        bias="none",
        task_type=TaskType.CAUSAL_LM,
    )
    torch.manual_seed(seed)
    try:
        with quiet_peft():
            return get_peft_model(base, config)
    except ValueError as exc:
        raise UsageError(
            f"no adapter fits the base: {exc}", "give target_modules names of its layers, or all-linear"
        ) from exc


def trainable_parameters(model: CausalModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor of every trainable parameter, in a fixed order."""
    yield from sorted((name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad)


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor, on the CPU; if FSDP shards it, every process must call this."""
    whole: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.detach().cpu().contiguous()


def sharded_like(tensor: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """``whole`` on the device of ``tensor``; if FSDP shards that, the part of this process. Then all must call this."""
    moved = whole.to(tensor.device)
    if not hasattr(tensor, "full_tensor"):
        return moved
    from torch.distributed.tensor import distribute_tensor

    sharded: torch.Tensor = distribute_tensor(moved, tensor.device_mesh, tensor.placements)
    return sharded


def save_adapter(model: CausalModel, folder: Path, *, base_model: str) -> None:
    """Write adapter weights and configuration, loadable by peft and vLLM; the base model is stored by name."""
    for name, content in dump_adapter(model, base_model=base_model).items():
        (folder / name).write_bytes(content)


def dump_adapter(model: CausalModel, *, base_model: str) -> dict[str, bytes]:
    """The files that ``save_adapter`` writes, by name; if FSDP shards the model, every process must call this."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    whole = {name: whole_tensor(tensor) for name, tensor in tensors.items()}
    config = model.peft_config["default"].to_dict()
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    snapshot = hub_reference(base_model, Path(model.get_base_model().config.name_or_path))
    revision = snapshot.revision if snapshot is not None and snapshot.name == base_model else None
    config |= {"base_model_name_or_path": base_model, "revision": revision, "inference_mode": True}
    text = json.dumps(config, indent=1, sort_keys=True, default=str)
    return {
        "adapter_model.safetensors": save(whole, metadata={"format": "pt"}),
        "adapter_config.json": text.encode(),
    }
