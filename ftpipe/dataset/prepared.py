"""Prepared datasets on disk: the files to train with, and a manifest that records their origin."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import fsync, read_json, rename_durably, temporary_path, write_json
from ftpipe.dataset.identity import sha256_of_dataset
from ftpipe.errors import LocalStateError, UsageError
from ftpipe.file_hash import sha256_of_stream
from ftpipe.output_files import check_outputs, is_same_file
from ftpipe.paths import is_in_state_dir, state_dir
from ftpipe.records import Dataset, Report

SCHEMA = "ftpipe.prepared/1"
FILE_NAMES = frozenset({"train.jsonl", "validation.jsonl", "manifest.json"})


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


def write(
    report: Report,
    folder: Path,
    *,
    source: Dataset,
    model: str,
    inputs: Iterable[Path] = (),
    force: bool = False,
    now: float | None = None,
) -> PreparedDataset:
    """Copy the checked files into ``folder``, write the manifest, and set the folder as the latest.

    Args:
        report: Report of the files that will be used for training.
        folder: Created if missing; files of an earlier run are replaced.
        source: The file that the user named; it differs from ``report.dataset`` after a split.
        model: Base model for which the tokens were counted.
        inputs: Other files that were read, such as a test file.
        force: Replace files in ``folder`` that are not from an earlier run.
        now: Unix time for the manifest; ``None`` for the current time.

    Raises:
        LocalStateError: The folder cannot be written, or a file changed after it was checked.
        UsageError: The folder has files of these names that are not from an earlier run, or that were read.
    """
    validation_path = report.validation.path if report.validation else None
    check_folder(folder, report.dataset.path, validation_path, inputs=[source.path, *inputs], force=force)
    try:
        state_dir().mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
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


def check_folder(
    folder: Path, train: Path | None, validation: Path | None, *, inputs: Iterable[Path] = (), force: bool = False
) -> None:
    """Check that ``write`` may replace and delete the files of its names in ``folder``.

    Args:
        folder: The folder to write to.
        train: Training file that will be copied; it may be ``folder/train.jsonl`` itself, which then stays as it is.
        validation: The same for the validation file.
        inputs: Files that must not be replaced, not even with ``force``.
        force: Replace files that are not from an earlier run.

    Raises:
        UsageError: A file is an input, or is not from an earlier run.
    """
    copied = {"train.jsonl": train, "validation.jsonl": validation, "manifest.json": None}
    names = [
        name for name, path in copied.items() if path is None or not is_same_file(folder / name, path)
    ]  # a file is not copied onto itself
    sources = [*inputs, *filter(None, (train, validation))]
    check_outputs([("--output", folder / name) for name in names], inputs=sources, force=True)
    if force or is_in_state_dir(folder):
        return
    manifest = read_json(folder / "manifest.json") or {}
    listed = manifest.get("outputs") if manifest.get("schema") == SCHEMA else None
    digests = {one.get("name"): one.get("sha256") for one in listed or () if isinstance(one, dict)}
    for path in (folder / name for name in names):
        if not path.exists() and not path.is_symlink():
            continue
        is_own = listed is not None and path.name == "manifest.json"
        if not is_own and digests.get(path.name) != sha256_of_dataset(path):
            raise UsageError(
                f"{path} exists, and ftpipe has not written it",
                "choose another folder with --output, move it away, or add --force to replace it",
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


def folders() -> Iterator[tuple[Path, frozenset[str]]]:
    """The prepared datasets in the project's state folder, each with the SHA-256 of its files.

    Those that have other files than ``write`` makes are left out.
    """
    for folder in sorted((state_dir() / "prepared").glob("*")):
        if folder.is_symlink() or not folder.is_dir():
            continue
        manifest = read_json(folder / "manifest.json") or {}
        names = {path.name for path in folder.iterdir()}
        outputs = manifest.get("outputs")
        if manifest.get("schema") == SCHEMA and names <= FILE_NAMES and isinstance(outputs, list):
            yield folder, frozenset(str(one.get("sha256")) for one in outputs if isinstance(one, dict))


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
