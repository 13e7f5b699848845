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


def adapter_config(model: CausalModel) -> dict[str, Any]:
    """The configuration from which ``add_uninitialized_adapter`` makes an adapter of the same shape."""
    config = model.peft_config["default"]
    names = ("r", "lora_alpha", "lora_dropout", "bias", "task_type")
    targets = config.target_modules
    target_modules = targets if isinstance(targets, str) else sorted(targets)
    return {**{name: getattr(config, name) for name in names}, "target_modules": target_modules}


def add_uninitialized_adapter(base: CausalModel, config: dict[str, Any]) -> CausalModel:
    """``base`` with an adapter of the given shape, whose weights are still to be set."""
    from peft import LoraConfig, get_peft_model

    with quiet_peft():
        return get_peft_model(base, LoraConfig(**config))


def trainable_parameters(model: CausalModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor of every trainable parameter, in a fixed order."""
    yield from sorted((name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad)


def save_adapter(model: CausalModel, folder: Path, *, base_model: str) -> None:
    """Write adapter weights and configuration, loadable by peft and vLLM; the base model is stored by name."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config["default"].to_dict()
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    snapshot = hub_reference(base_model, Path(model.get_base_model().config.name_or_path))
    revision = snapshot.revision if snapshot is not None and snapshot.name == base_model else None
    config |= {"base_model_name_or_path": base_model, "revision": revision, "inference_mode": True}
    text = json.dumps(config, indent=1, sort_keys=True, default=str)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
