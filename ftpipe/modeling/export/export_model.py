"""Export a tuned model into a new folder: write it, check it, and name a folder that fails the check as such."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ftpipe.atomic_files import fsync, make_readable
from ftpipe.errors import ExportCheckError, LocalStateError, UsageError
from ftpipe.formatting import format_bytes
from ftpipe.modeling.base_models import DEFAULT_BASE, HubReference, hub_reference, resolve_base
from ftpipe.modeling.chat_template import ChatTemplate
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.export.check import CheckResult, Progress, Prompt, Reference, check_export, reference_answers
from ftpipe.modeling.export.gguf_writer import GGUF_FILE, adds_bos, check_gguf_support, write_gguf
from ftpipe.modeling.export.loaders import GgufExport, load_adapter_export, load_merged_export, modelfile_problems
from ftpipe.modeling.export.model_card import ModelFacts, write_model_card
from ftpipe.modeling.export.modelfile import MODELFILE, modelfile_content, read_turn_texts
from ftpipe.modeling.export.weights import (
    adapter_revision,
    merge,
    stored_dtype,
    write_adapter,
    write_generation_config,
    write_merged,
)
from ftpipe.modeling.loading import ADAPTER_FILES, check_adapter, load_adapter, load_base

ExportFormat = Literal["adapter", "merged", "gguf"]
ProgressFactory = Callable[[str, str], AbstractContextManager[Progress]]
"""``factory(label, unit)`` shows the progress of one step."""
SPACE_FACTOR = 1.1
"""Free space that is required, as a multiple of what is estimated."""
SMALL_FILES_BYTES = 32_000_000
"""Estimate for tokenizer, configuration and model card."""


@dataclass(frozen=True)
class ExportRequest:
    """What to export, and where to.

    Attributes:
        base: Name of the base model, as ``resolve_base`` takes it.
        adapter: Folder of the adapter, a checkpoint.
        output: A folder that does not exist yet, or is empty.
        format: ``adapter`` for the adapter alone, ``merged`` for complete weights, ``gguf`` for a file
            that llama.cpp and Ollama load.
        models_dir: Folder of base models.
        prompts: Conversations for the check; ftpipe's own are used if there are fewer than 20.
        facts: What the model card says of the model.
    """

    base: str
    adapter: Path
    output: Path
    format: ExportFormat
    models_dir: Path
    facts: ModelFacts
    prompts: Sequence[Prompt] = ()


@dataclass(frozen=True)
class ExportResult:
    """A written export.

    Attributes:
        folder: Where it is; if it failed the check, the name ends with ``-failed-check``.
        base: The base model on the hub; ``None`` if it is not known there.
        check: How it compares with the trainer's model.
        notes: What users of the export have to know.
    """

    folder: Path
    base: HubReference | None
    check: CheckResult
    notes: list[str] = field(default_factory=list)


def export_model(request: ExportRequest, progress: ProgressFactory) -> ExportResult:
    """Write a tuned model for other programs, and compare its answers with those of the trainer's model.

    Raises:
        UsageError: The output folder is not empty, or the model cannot be written in this format.
        NotFoundError: There is no such base model or adapter.
        ExportCheckError: The export cannot be loaded.
        LocalStateError: The output folder cannot be written, or there is too little space.
    """
    output = request.output
    check_adapter(request.adapter)
    _require_new_or_empty(output)
    base_dir = resolve_base(request.base, models_dir=request.models_dir, revision=adapter_revision(request.adapter))
    hub = hub_reference(request.base, base_dir)
    if request.format == "gguf":
        check_gguf_support(base_dir)
    temporary: Path | None = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _require_space(output.parent, _estimated_bytes(request, base_dir))
        reference = _reference(request, base_dir, progress)
        # A folder of this call alone: other folders, and another export, are left as they are.
        temporary = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}-"))
        if request.format == "gguf":
            _write_gguf(request, base_dir, temporary, reference, progress)
        else:
            _write_safetensors(request, base_dir, hub, temporary, reference)
        check = _check(request, base_dir, temporary, reference, progress)
        notes = _notes(request, hub, temporary)
        write_model_card(temporary, request.facts, request.format, hub, check, notes)
        folder = _rename(temporary, output if check.passed else _failed_name(output))
    except OSError as exc:
        _require_new_or_empty(output)  # another export to the same folder may have ended first
        raise LocalStateError(
            f"the model could not be written to {output}: {exc.strerror or exc}",
            "free some disk space, or choose another folder",
        ) from exc
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return ExportResult(folder, hub, check, notes)


def _reference(request: ExportRequest, base_dir: Path, progress: ProgressFactory) -> Reference:
    with progress("answers of the trainer's model", "prompt") as on_progress:
        model = load_adapter(load_base(base_dir, DeviceConfig("cpu", "float32")), request.adapter).eval()
        dtype = {"adapter": "float32", "merged": stored_dtype(base_dir), "gguf": "float16"}[request.format]
        return reference_answers(model, base_dir, request.prompts, dtype=dtype, on_progress=on_progress)


def _write_safetensors(
    request: ExportRequest, base_dir: Path, hub: HubReference | None, folder: Path, reference: Reference
) -> None:
    if request.format == "merged":
        write_merged(base_dir, request.adapter, folder)
    else:
        write_adapter(base_dir, request.adapter, folder, request.base, hub)
    write_generation_config(base_dir, folder, reference.stop_ids)


def _write_gguf(
    request: ExportRequest, base_dir: Path, folder: Path, reference: Reference, progress: ProgressFactory
) -> None:
    with progress("writing the GGUF file", "tensor") as on_progress:
        write_gguf(
            merge(base_dir, request.adapter, keep_float32=True),
            base_dir,
            folder / GGUF_FILE,
            end_of_turn=reference.end_of_turn,
            name=request.facts.name,
            on_progress=on_progress,
        )
    start = reference.tokenizer.bos_token if adds_bos(reference.tokenizer) else ""
    texts = read_turn_texts(ChatTemplate.load(base_dir), start=start)
    if texts is not None:
        stops = [str(reference.tokenizer.decode([id_])) for id_ in sorted(reference.stop_ids)]
        (folder / MODELFILE).write_text(modelfile_content(texts, GGUF_FILE, stops), encoding="utf-8")


def _check(
    request: ExportRequest, base_dir: Path, folder: Path, reference: Reference, progress: ProgressFactory
) -> CheckResult:
    with progress("checking the export", "prompt") as on_progress, _load_errors():
        if request.format == "merged":
            return check_export(reference, load_merged_export(folder), on_progress)
        if request.format == "adapter":
            return check_export(reference, load_adapter_export(folder, base_dir), on_progress)
        result = check_export(reference, GgufExport(folder / GGUF_FILE, base_dir), on_progress)
        return replace(result, problems=(*result.problems, *modelfile_problems(folder, reference)))


@contextmanager
def _load_errors() -> Iterator[None]:
    """An export that cannot be read back has failed its check, too."""
    try:
        yield
    except (ValueError, KeyError, TypeError, RuntimeError, ImportError) as exc:
        raise ExportCheckError(
            f"the export cannot be loaded, so nothing was kept: {type(exc).__name__}: {str(exc)[:200]}",
            "choose another format, and report it as a bug of ftpipe",
        ) from exc


def _notes(request: ExportRequest, hub: HubReference | None, folder: Path) -> list[str]:
    if request.format == "gguf" and not (folder / MODELFILE).is_file():
        return [
            "there is no Modelfile, since Ollama has no words for the chat template; llama-server --jinja uses "
            "the template in the file"
        ]
    if request.format != "adapter":
        return []
    if hub is None:
        return [
            f"adapter_config.json names the base model {Path(request.base).name!r}, which is on no hub: give the "
            "program that loads the adapter the folder of the base model, or export with --merged"
        ]
    if request.base == DEFAULT_BASE:
        return [
            f"the adapter was trained and checked on 4-bit weights of {hub.name}; with the published weights answers "
            "can differ: --merged exports the weights that were checked"
        ]
    return []


def _rename(temporary: Path, folder: Path) -> Path:
    make_readable(temporary)
    for file in temporary.rglob("*"):
        fsync(file)
    if os.name == "nt" and folder.exists():
        folder.rmdir()  # elsewhere, a folder takes the name of an empty one in one step
    temporary.rename(folder)
    return folder


def _failed_name(output: Path) -> Path:
    """A new name that says that the export failed its check."""
    number, folder = 1, output.with_name(f"{output.name}-failed-check")
    while folder.exists() or folder.is_symlink():
        number += 1
        folder = output.with_name(f"{output.name}-failed-check-{number}")
    return folder


def _require_new_or_empty(output: Path) -> None:
    if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise UsageError(f"{output} exists already and is not empty", "choose a folder that does not exist yet")


def _estimated_bytes(request: ExportRequest, base_dir: Path) -> int:
    files = (
        base_dir.glob("*.safetensors")
        if request.format != "adapter"
        else (request.adapter / name for name in ADAPTER_FILES)
    )
    return SMALL_FILES_BYTES + sum(file.stat().st_size for file in files)


def _require_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size * SPACE_FACTOR:
        raise LocalStateError(
            f"the export needs {format_bytes(size * SPACE_FACTOR)} in {folder}, and {format_bytes(free)} are free",
            "free some disk space, or choose another folder",
        )
