"""Export a tuned model for other programs: its adapter alone, or merged into its base model."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from ftpipe.atomic_files import make_readable
from ftpipe.errors import LocalStateError, UsageError
from ftpipe.modeling.base_models import resolve_base
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.loading import ADAPTER_FILES, check_adapter, load_adapter, load_base, load_tokenizer


def export_model(*, base: str, adapter: Path, output: Path, merged: bool, models_dir: Path) -> Path:
    """Write a tuned model to ``output``.

    Args:
        base: Name of its base model, as ``resolve_base`` takes it.
        adapter: A checkpoint's folder.
        output: A folder that does not exist yet, or is empty.
        merged: Complete weights and tokenizer for transformers, vLLM and converters; else only the adapter, which
            peft and vLLM load onto the base model.
        models_dir: Folder of base models.

    Returns:
        ``output``.

    Raises:
        UsageError: ``output`` is not empty.
        NotFoundError: There is no such base model or adapter.
        LocalStateError: ``output`` cannot be written.
    """
    check_adapter(adapter)
    _require_new_or_empty(output)
    temporary: Path | None = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # A folder of this call alone: other folders, and another export, are left as they are.
        temporary = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}-"))
        if merged:
            _write_merged(base, adapter, temporary, models_dir)
        else:
            for name in ADAPTER_FILES:
                shutil.copyfile(adapter / name, temporary / name)
            _set_base_name(temporary, base)
        make_readable(temporary)
        if os.name == "nt" and output.exists():
            output.rmdir()  # elsewhere, a folder takes the name of an empty one in one step
        temporary.rename(output)
    except OSError as exc:
        _require_new_or_empty(output)  # another export to the same folder may have ended first
        raise LocalStateError(
            f"the model could not be written to {output}: {exc.strerror or exc}",
            "free some disk space, or choose another folder",
        ) from exc
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return output


def _require_new_or_empty(output: Path) -> None:
    if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise UsageError(f"{output} exists already and is not empty", "choose a folder that does not exist yet")


def _set_base_name(folder: Path, base: str) -> None:
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "base_model_name_or_path": base}, indent=1, sort_keys=True), encoding="utf-8")


def _write_merged(base: str, adapter: Path, folder: Path, models_dir: Path) -> None:
    import torch

    source = resolve_base(base, models_dir=models_dir)
    # merged in float32, so that the base model's weights are rounded once and not twice
    merged = load_adapter(load_base(source, DeviceConfig("cpu", "float32")), adapter).merge_and_unload()
    merged.config.use_cache = True
    merged.to(torch.bfloat16).save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)
