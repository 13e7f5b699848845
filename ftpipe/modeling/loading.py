"""Load base models, tokenizers and LoRA adapters from folders; nothing is downloaded and no model code is run."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftpipe.errors import MissingExtraError, NotFoundError
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.types import CausalModel, Tokenizer

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a base's folder; nothing is fetched and no code of the model is run."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_base(folder: Path, machine: DeviceConfig) -> CausalModel:
    """The base model of a folder, frozen, on its device.

    Raises:
        NotFoundError: The folder's model is of a kind that transformers does not carry.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging
    except ImportError as exc:
        raise MissingExtraError("local models need the local extra", "pip install 'ftpipe[local]'") from exc
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, machine.dtype),
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (ValueError, KeyError, OSError, RuntimeError) as exc:
        raise NotFoundError(
            f"the base {folder.name!r} cannot be loaded: {str(exc)[:300]}", "choose another base"
        ) from exc
    model.config.use_cache = False
    return model.to(machine.device).requires_grad_(requires_grad=False).eval()


def load_adapter(model: CausalModel, adapter: Path, *, name: str = "default", trainable: bool = False) -> CausalModel:
    """``model`` with the adapter of a folder; only safetensors are read.

    Raises:
        NotFoundError: The folder holds no adapter, or one for another base.
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
            f"the adapter {adapter.name} does not fit its base: {str(exc)[:200]}", "train it again"
        ) from exc


def check_adapter(adapter: Path) -> None:
    """Refuse a folder that is no whole adapter.

    Raises:
        NotFoundError: A file is missing.
    """
    missing = [name for name in ADAPTER_FILES if not (adapter / name).is_file()]
    if missing:
        raise NotFoundError(f"the adapter {adapter.name} lacks {' and '.join(missing)}", "train it again")


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Hide a warning of transformers about a name that peft up to 0.21 still reads; users can do nothing about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


def cache_argument(model: CausalModel) -> str:
    """How a model's forward pass calls its cache; transformers renamed it on the way from 5.0 to 5.24."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
