"""Write adapters and merged weights with their tokenizer, so that peft, transformers and vLLM load them as they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.atomic_files import read_json
from ftpipe.errors import UsageError
from ftpipe.modeling.base_models import HubReference
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.loading import ADAPTER_FILES, load_adapter, load_base
from ftpipe.modeling.types import CausalModel

if TYPE_CHECKING:
    import torch

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
MAX_FLOAT16 = 65504.0
MAX_SHARD_SIZE = "4GB"
"""Largest file of merged weights: some file systems take no more, and programs load several files in parallel."""


def adapter_revision(adapter: Path) -> str | None:
    """Commit of the base model that an adapter was trained on; ``None`` if it did not come from a hub."""
    revision = _read(adapter / "adapter_config.json").get("revision")
    return revision if isinstance(revision, str) else None


def stored_dtype(base_dir: Path) -> str:
    """The precision of a base model's files, as torch names it."""
    config = _read(base_dir / "config.json")
    named = config.get("dtype") or config.get("torch_dtype")
    if isinstance(named, str):
        return named
    from safetensors import safe_open

    with safe_open(next(base_dir.glob("*.safetensors")), framework="pt") as file:
        return str(file.get_tensor(next(iter(file.keys()))).dtype).removeprefix("torch.")


def write_adapter(base_dir: Path, adapter: Path, folder: Path, base_name: str, hub: HubReference | None) -> None:
    """Copy an adapter, with a configuration that names the base model as other programs find it."""
    for name in ADAPTER_FILES:
        shutil.copyfile(adapter / name, folder / name)
    config = _read(folder / "adapter_config.json")
    config |= {
        "base_model_name_or_path": hub.name if hub else Path(base_name).name,
        "revision": hub.revision if hub else None,
    }
    _write(folder / "adapter_config.json", config)
    copy_tokenizer(base_dir, folder)


def write_merged(base_dir: Path, adapter: Path, folder: Path) -> None:
    """Write the base model with the adapter merged, in the precision of the base model's files."""
    model = merge(base_dir, adapter)
    model.save_pretrained(folder, max_shard_size=MAX_SHARD_SIZE)
    config = {**_read(base_dir / "config.json"), "tie_word_embeddings": bool(model.config.tie_word_embeddings)}
    for key in ("_name_or_path", "_model_name_or_path"):  # can be a path of this machine
        config.pop(key, None)
    _write(folder / "config.json", _with_old_names(config))
    copy_tokenizer(base_dir, folder)


def merge(base_dir: Path, adapter: Path, *, keep_float32: bool = False) -> CausalModel:
    """Load a base model in the precision of its files, and merge an adapter into it; see :func:`merge_adapter`.

    Raises:
        UsageError: The base model is quantized, so that merged weights would be rounded to a few bits.
    """
    quantization = _read(base_dir / "config.json").get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "an unknown method")
        raise UsageError(
            f"the base model is quantized ({method}), and merging would round the adapter to its few bits",
            "export the adapter alone, without --merged or --gguf, or train on the unquantized model",
        )
    model = load_adapter(load_base(base_dir, DeviceConfig("cpu", "auto")), adapter)
    return merge_adapter(model, keep_float32=keep_float32)


def merge_adapter(model: CausalModel, *, keep_float32: bool) -> CausalModel:
    """The base model with the weights of the adapter added to its own.

    Each sum is computed in float32 and rounded once; peft's own merge rounds the adapter's part before it is added.

    Args:
        model: A base model with an adapter, which cannot be used any more.
        keep_float32: Do not round the sums to the precision of the model.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    with torch.no_grad():
        _untie_embeddings(model)
        for module in model.modules():
            if isinstance(module, LoraLayer):
                layer = module.get_base_layer()
                total = layer.weight.float() + module.get_delta_weight(module.active_adapters[0]).float()
                layer.weight.data = total if keep_float32 else total.to(layer.weight.dtype)
    merged: CausalModel = model.unload()
    merged.config.use_cache = True
    return merged


def fits_float16(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether float16 can hold all values; it has more digits than bfloat16, and a smaller range."""
    return all(float(tensor.abs().max()) <= MAX_FLOAT16 for tensor in tensors)


def _untie_embeddings(model: CausalModel) -> None:
    """Give the output layer its own weights if only one of two layers that share them has an adapter."""
    from peft.tuners.lora import LoraLayer
    from torch.nn import Parameter

    base = model.get_base_model()
    inputs, outputs = base.get_input_embeddings(), base.get_output_embeddings()
    tuned = [layer.get_base_layer() for layer in (inputs, outputs) if isinstance(layer, LoraLayer)]
    plain_inputs, plain_outputs = (
        layer.get_base_layer() if isinstance(layer, LoraLayer) else layer for layer in (inputs, outputs)
    )
    if tuned and plain_outputs.weight is plain_inputs.weight:
        plain_outputs.weight = Parameter(plain_outputs.weight.clone(), requires_grad=False)
        base.config.tie_word_embeddings = False


def copy_tokenizer(base_dir: Path, folder: Path) -> None:
    """Copy the base model's tokenizer and chat template as they are.

    The files are copied and not saved again, because transformers 5 saves a form that version 4 does not read.
    """
    for name in TOKENIZER_FILES:
        if (base_dir / name).is_file():
            shutil.copyfile(base_dir / name, folder / name)
    if (base_dir / "additional_chat_templates").is_dir():
        shutil.copytree(base_dir / "additional_chat_templates", folder / "additional_chat_templates")
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    config = _read(path)
    if config.get("tokenizer_class") == "TokenizersBackend":  # the name of the same class since transformers 5
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for key in ("backend", "is_local", "local_files_only", "name_or_path"):
        config.pop(key, None)
    _write(path, config)


def write_generation_config(base_dir: Path, folder: Path, stop_ids: Collection[int]) -> None:
    """Write the base model's generation configuration with the tokens that end an answer.

    Some base models name only the token that ends a document, and then answers never end in transformers and vLLM.
    """
    config = read_json(base_dir / "generation_config.json") or {}
    config.pop("_from_model_config", None)
    _write(folder / "generation_config.json", {**config, "eos_token_id": sorted(stop_ids)})


def _with_old_names(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration that transformers 4 reads, too: it knows two settings by other names, and skips unknown ones.

    Without them it would rotate positions with its default, and the model would write nonsense.
    """
    old: dict[str, Any] = {}
    if "dtype" in config:
        old["torch_dtype"] = config["dtype"]
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        old["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            old["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    return {**old, **config}


def _read(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def _write(path: Path, config: dict[str, Any]) -> None:
    path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
