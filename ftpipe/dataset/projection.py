"""Leaves out of a dataset what a host does not accept, in a copy that is uploaded in its place; nothing else changes.

Only top-level keys that the host refuses and that do not change what is learnt are left out: the rule FT110 reports
them before, and an error of any rule stops the job. The same bytes give the same copy, so that a resumed run uploads it
again.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ftpipe.atomic_files import rename_durably, temporary_path
from ftpipe.dataset.formats import DPO_KEYS, HOST_KEYS
from ftpipe.dataset.identity import sha256_of_dataset
from ftpipe.dataset.json_line import Json
from ftpipe.dataset.reader import read_lines
from ftpipe.errors import DatasetError, LocalStateError
from ftpipe.formatting import plural
from ftpipe.records import Dataset

FOLDER = "projected"
"""Folder of the copies, in the project's state folder."""


@dataclass(frozen=True, slots=True)
class Projection:
    """A dataset as it is uploaded."""

    dataset: Dataset
    removed: dict[str, int]
    """Key → number of examples from which it was left out; empty if the original is uploaded."""

    def sentence(self, title: str) -> str:
        """What was left out, for the user; empty if nothing was."""
        if not self.removed:
            return ""
        keys = ", ".join(f"{key[:40]!r} ({plural(number, 'example')})" for key, number in self.removed.items())
        return f"left out of the upload, because {title} refuses it: {keys}; your file does not change"


def project_dataset(dataset: Dataset, target: str, folder: Path) -> Projection:
    """The dataset as a target accepts it: the original, or a copy without keys that the target refuses.

    Args:
        dataset: The dataset as it was checked.
        target: Whose keys are kept.
        folder: Where the copy is written.

    Raises:
        DatasetError: The file cannot be read any more.
        LocalStateError: The copy cannot be written.
    """
    if target not in HOST_KEYS:
        return Projection(dataset, {})
    if sha256_of_dataset(dataset.path) != dataset.sha256:
        raise DatasetError(
            f"{dataset.path} has changed since it was checked",
            "run `ftpipe train` again: the new content is checked and counted first; nothing was paid",
        )
    path = folder / f"{dataset.sha256[:16]}-{target}.jsonl"
    temporary = temporary_path(path)
    removed: Counter[str] = Counter()
    digest, size = hashlib.sha256(), 0
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with temporary.open("xb") as out:
            for number, raw in read_lines(dataset.path):
                if raw is None:
                    raise DatasetError(f"line {number} of {dataset.path} is too long to copy", "shorten or remove it")
                line = _project_line(raw, target, removed)
                if line.strip():
                    out.write(line + b"\n")
                    digest.update(line + b"\n")
                    size += len(line) + 1
            out.flush()
            os.fsync(out.fileno())
        if not removed:
            temporary.unlink()
            return Projection(dataset, {})
        rename_durably(temporary, path)
    except OSError as exc:
        raise LocalStateError(
            f"the copy of {dataset.path.name} for {target} cannot be written to {folder}: {exc.strerror}",
            "free some disk space or fix the folder's permissions, then run `ftpipe resume`; nothing was paid",
        ) from exc
    finally:
        temporary.unlink(missing_ok=True)
    copy = dataset.model_copy(update={"path": path, "sha256": digest.hexdigest(), "bytes": size})
    return Projection(copy, dict(removed.most_common()))


def _project_line(raw: bytes, target: str, removed: Counter[str]) -> bytes:
    """The line without the keys that the target refuses; any other line stays as it is, byte for byte."""
    try:
        record: Json = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return raw
    if not isinstance(record, dict):
        return raw
    source = record.get("input")
    is_pair = isinstance(source, dict) and DPO_KEYS[1] in record
    refused = [key for key in record if key not in (DPO_KEYS if is_pair else HOST_KEYS[target])]
    inner = [key for key in source if key not in HOST_KEYS[target] - {"weight"}] if is_pair and source else []
    if not refused and not inner:
        return raw
    _drop(record, refused, removed)
    if inner and isinstance(source, dict):
        _drop(source, inner, removed)
    return orjson.dumps(record)


def _drop(value: dict[str, Any], keys: list[str], removed: Counter[str]) -> None:
    for key in keys:
        del value[key]
        removed[key] += 1
