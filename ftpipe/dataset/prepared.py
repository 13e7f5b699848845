"""Prepared datasets on disk: the files to train with, and a manifest that records their origin."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import fsync, read_json, rename_durably, temporary_path, write_json
from ftpipe.errors import LocalStateError, UsageError
from ftpipe.file_hash import sha256_of_stream
from ftpipe.paths import state_dir
from ftpipe.records import Dataset, Report

SCHEMA = "ftpipe.prepared/1"


@dataclass(frozen=True)
class PreparedDataset:
    """A folder with files that ``train`` can use."""

    folder: Path
    train: Path
    validation: Path | None
    source: Path
    """The file from which ``train`` was made."""
    source_sha256: str

    @property
    def manifest(self) -> Path:
        """The manifest beside the files."""
        return self.folder / "manifest.json"


def default_dir(source: Path, sha256: str) -> Path:
    """``.ftpipe/prepared/<name>-<first 8 of the digest>``."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.stem).strip("-.")[:40] or "data"
    return state_dir() / "prepared" / f"{name}-{sha256[:8]}"


def write(report: Report, folder: Path, *, source: Dataset, model: str, now: float | None = None) -> PreparedDataset:
    """Copy the checked files into ``folder``, write the manifest, and set the folder as the latest.

    Args:
        report: Report of the files that will be used for training.
        folder: Created if missing; files of an earlier run are replaced.
        source: The file that the user named; it differs from ``report.dataset`` after a split.
        model: Base model for which the tokens were counted.
        now: Unix time for the manifest; ``None`` for the current time.

    Raises:
        LocalStateError: The folder cannot be written, or a file changed after it was checked.
        UsageError: The folder has files of these names that are not from an earlier run.
    """
    try:
        state_dir().mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_foreign_files(folder, [report.dataset, *([report.validation] if report.validation else [])])
        train = _copy(report.dataset, folder / "train.jsonl")
        validation = _copy(report.validation, folder / "validation.jsonl") if report.validation else None
        if validation is None and (folder / "validation.jsonl").exists():
            (folder / "validation.jsonl").unlink()
        prepared = PreparedDataset(folder, train, validation, source.path.absolute(), source.sha256)
        write_json(prepared.manifest, _manifest(report, prepared, model, time.time() if now is None else now), indent=2)
        set_latest(prepared)
    except OSError as error:
        raise LocalStateError(
            f"{folder}: the prepared files cannot be written: {error.strerror}",
            "free some space, or choose another folder with --output",
        ) from error
    return prepared


def _copy(dataset: Dataset, target: Path) -> Path:
    """Copy and hash; the file itself is not copied onto itself."""
    if target.exists() and target.samefile(dataset.path):
        return target
    partial = temporary_path(target)
    try:
        with dataset.path.open("rb") as source, partial.open("xb") as sink:
            digest = sha256_of_stream(source, sink.write)
        fsync(partial)
        if digest != dataset.sha256:
            raise LocalStateError(f"{dataset.path} changed while it was being prepared", "run `ftpipe prepare` again")
        rename_durably(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _refuse_foreign_files(folder: Path, datasets: list[Dataset]) -> None:
    """Refuse to replace or delete files that no manifest says this program has written."""
    if (read_json(folder / "manifest.json") or {}).get("schema") == SCHEMA or state_dir() in folder.absolute().parents:
        return
    for name in ("manifest.json", "train.jsonl", "validation.jsonl"):
        path = folder / name
        own = any(path.exists() and path.samefile(dataset.path) for dataset in datasets)
        if not own and (path.exists() or path.is_symlink()):
            raise UsageError(
                f"{path} exists, and ftpipe has not written it", "choose another folder with --output, or move it away"
            )


def _manifest(report: Report, prepared: PreparedDataset, model: str, now: float) -> dict[str, Any]:
    outputs = [(prepared.train, report.dataset)]
    if prepared.validation and report.validation:
        outputs.append((prepared.validation, report.validation))
    return {
        "schema": SCHEMA,
        "created_at": int(now),
        "target": report.target,
        "method": report.method.value,
        "model": model,
        "source": {"path": str(prepared.source), "sha256": prepared.source_sha256},
        "outputs": [
            {"name": path.name, "from": str(data.path.absolute()), "sha256": data.sha256, "bytes": data.bytes,
             "examples": data.examples}
            for path, data in outputs
        ],
        "summary": report.summary.model_dump(mode="json"),
        "tokens": report.tokens.model_dump(mode="json") if report.tokens else None,
        "cost": report.cost.model_dump(mode="json") if report.cost else None,
    }  # fmt: skip


def _pointer() -> Path:
    return state_dir() / "prepared" / "latest.json"


def set_latest(prepared: PreparedDataset) -> None:
    """Make this folder the one that ``train`` uses if no data is named."""
    _pointer().parent.mkdir(parents=True, exist_ok=True)
    write_json(_pointer(), {"folder": str(prepared.folder.absolute())}, indent=2)


def latest() -> PreparedDataset | None:
    """The folder that was prepared last; ``None`` if it does not exist any more."""
    try:
        folder = Path(json.loads(_pointer().read_text(encoding="utf-8"))["folder"])
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        source, sha256 = Path(manifest["source"]["path"]), str(manifest["source"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    train, validation = folder / "train.jsonl", folder / "validation.jsonl"
    if not train.is_file():
        return None
    return PreparedDataset(folder, train, validation if validation.is_file() else None, source, sha256)
