"""Load base models, tokenizers and LoRA adapters from folders; nothing is downloaded and no model code is run."""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftpipe.errors import MissingExtraError, NotFoundError
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.types import CausalModel, Tokenizer

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
"""The files of an adapter's folder, as peft writes them."""


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a base model's folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_base(folder: Path, device: DeviceConfig) -> CausalModel:
    """The base model of a folder, frozen, on its device.

    Raises:
        NotFoundError: transformers does not support the model's architecture.
    """
    try:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging
    except ImportError as exc:
        raise MissingExtraError("local models need the local extra", "pip install 'ftpipe[local]'") from exc
    logging.disable_progress_bar()
    try:
        # transformers chooses the attention: torch's own, or for models that it does not fit (gpt-oss, Gemma 2) theirs
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=device.dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            **_quantization(device),
        )
    except (ValueError, KeyError, OSError, RuntimeError) as exc:
        raise NotFoundError(
            f"the base model {folder.name!r} cannot be loaded: {str(exc)[:300]}", "choose another base model"
        ) from exc
    model.config.use_cache = False
    if device.quantization == "none":
        model = model.to(device.device)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # else bitsandbytes packs the weights in the first evaluation, and later steps get no gradient through them
            module.support_avx512bf16_for_cpu = False
    return model.requires_grad_(requires_grad=False).eval()


def _quantization(device: DeviceConfig) -> dict[str, Any]:
    """The arguments that quantize the linear layers while they are loaded; none without quantization."""
    if device.quantization == "none":
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError(
            f"{device.quantization} weights need the quantization extra", "pip install 'ftpipe[quantization]'"
        )
    import torch
    from transformers import BitsAndBytesConfig

    if device.quantization == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, device.dtype),
        )
    return {"quantization_config": config, "device_map": {"": device.device}}


def use_fused_kernels(model: CausalModel, device: DeviceConfig) -> bool:
    """Let Liger's kernels compute norms, rotations and gates on an NVIDIA GPU, if they are installed.

    The loss stays ftpipe's own, which has logits for trained tokens only.

    Source: ``transformers.integrations.liger``, transformers 5.24, read 2026-11-29; not run on a GPU.
    """
    if device.device != "cuda" or importlib.util.find_spec("liger_kernel") is None:
        return False
    from transformers.integrations.liger import apply_liger_kernel

    apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})
    return True


def enable_gradient_checkpointing(model: CausalModel) -> None:
    """Keep only the inputs of layers, and compute the layers again in the backward pass.

    Not reentrant: that needs inputs with a gradient, which the first layer of a frozen base does not have.
    """
    enable = getattr(model, "activation_checkpointing_enable", None)  # its name since transformers 5.24
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})


def stop_token_ids(model: CausalModel, tokenizer: Tokenizer) -> set[int]:
    """Ids of the tokens that end an answer: those of the generation configuration and of the tokenizer."""
    eos = model.generation_config.eos_token_id if model.generation_config else None
    eos_ids = eos if isinstance(eos, list) else [eos]
    return {int(id_) for id_ in [*eos_ids, tokenizer.eos_token_id] if id_ is not None}


def load_adapter(model: CausalModel, adapter: Path, *, name: str = "default", trainable: bool = False) -> CausalModel:
    """``model`` with the adapter of a folder; only safetensors are read.

    Raises:
        NotFoundError: The folder has no adapter, or one for another base model.
    """
    from peft import PeftModel

    check_adapter(adapter)
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(str(adapter), adapter_name=name, is_trainable=trainable, local_files_only=True)
            return model
        with quiet_peft():
            return PeftModel.from_pretrained(
                model, str(adapter), adapter_name=name, is_trainable=trainable, local_files_only=True
            )
    except (RuntimeError, ValueError, KeyError, TypeError) as exc:
        raise NotFoundError(
            f"the adapter {adapter.name} does not fit its base model: {str(exc)[:200]}", "train it again"
        ) from exc


def check_adapter(adapter: Path) -> None:
    """Check that a folder has every file of an adapter.

    Raises:
        NotFoundError: A file is missing.
    """
    missing = [name for name in ADAPTER_FILES if not (adapter / name).is_file()]
    if missing:
        raise NotFoundError(f"the adapter {adapter.name} lacks {' and '.join(missing)}", "train it again")


def read_adapter_files(adapter: Path) -> None:
    """Read an adapter into the page cache of the operating system, so that loading it does not wait for a slow disk.

    Raises:
        NotFoundError: A file is missing.
    """
    check_adapter(adapter)
    for name in ADAPTER_FILES:
        with (adapter / name).open("rb") as file:
            while file.read(1 << 20):
                pass


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Hide warnings that users can do nothing about.

    One of transformers is about a name that peft up to 0.21 uses. One of peft is about layers with the same weights:
    exports give each its own.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


def cache_argument(model: CausalModel) -> str:
    """The name of the cache argument of a model's forward pass; transformers renamed it between 5.0 and 5.24."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
