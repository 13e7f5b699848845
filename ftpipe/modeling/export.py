"""Write a tuned model to a folder for other programs: its adapter alone, or merged into its base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ftpipe.errors import LocalStateError, UsageError
from ftpipe.modeling.base_models import resolve_base
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.loading import ADAPTER_FILES, check_adapter, load_adapter, load_base, load_tokenizer


def export_model(*, base: str, adapter: Path, output: Path, merged: bool, models_dir: Path) -> Path:
    """Write a tuned model to ``output``.

    Args:
        base: Name of its base, as ``resolve_base`` takes it.
        adapter: A checkpoint's folder.
        output: A folder that does not exist yet, or is empty.
        merged: Whole weights and tokenizer for transformers, vLLM and converters; else only the adapter, which peft
            and vLLM load onto the base.
        models_dir: Where models are kept.

    Returns:
        ``output``.

    Raises:
        UsageError: ``output`` is not empty.
        NotFoundError: The base or the adapter is not there.
        LocalStateError: ``output`` cannot be written.
    """
    check_adapter(adapter)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} is there already", "name a folder that does not exist yet")
    scratch = output.with_name(f".new-{output.name}")
    try:
        scratch.mkdir(parents=True)
        if merged:
            _write_merged(base, adapter, scratch, models_dir)
        else:
            for name in ADAPTER_FILES:
                shutil.copyfile(adapter / name, scratch / name)
            _note_base(scratch, base)
        if output.exists():
            output.rmdir()
        scratch.rename(output)
    except OSError as exc:
        raise LocalStateError(
            f"the model could not be written to {output}: {exc.strerror or exc}", "make room there"
        ) from exc
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return output


def _note_base(folder: Path, base: str) -> None:
    place = folder / "adapter_config.json"
    config = json.loads(place.read_text(encoding="utf-8"))
    place.write_text(
        json.dumps({**config, "base_model_name_or_path": base}, indent=1, sort_keys=True), encoding="utf-8"
    )


def _write_merged(base: str, adapter: Path, folder: Path, models_dir: Path) -> None:
    import torch

    source = resolve_base(base, models_dir=models_dir)
    # Added in float32, so that the base's weights are rounded once and not twice.
    merged = load_adapter(load_base(source, DeviceConfig("cpu", "float32")), adapter).merge_and_unload()
    merged.config.use_cache = True
    merged.to(torch.bfloat16).save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)
