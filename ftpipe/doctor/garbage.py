"""Find and delete what nobody refers to any more: prepared files, interrupted downloads, remains of ended jobs.

What a run, a model or an alias of a registry needs is never garbage, nor is anything that ftpipe did not write.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ftpipe.dataset import prepared
from ftpipe.modeling.base_models import partial_downloads
from ftpipe.registry import Registry
from ftpipe.server.storage.garbage import ServerGarbage, delete_garbage, find_garbage

Kind = Literal["prepared", "download", "server"]


@dataclass(frozen=True, slots=True)
class Garbage:
    """A file or folder that can be deleted."""

    kind: Kind
    path: Path
    reason: str
    bytes: int
    """What its deletion frees: a file that has another name is not counted."""
    server: ServerGarbage | None = None


def collect(registries: Sequence[Registry], *, models_dir: Path, server_dir: Path) -> list[Garbage]:
    """Everything that can be deleted; nothing is written.

    Args:
        registries: Those that may refer to files of this project.
        models_dir: Folder of base models.
        server_dir: Data folder of the embedded server.

    Raises:
        LocalStateError: A registry or the server's database cannot be read.
    """
    paths, digests = _needed_data(registries)
    found = [
        _garbage("prepared", folder, "prepared files that no run or model was made of, and not the latest ones")
        for folder, own_digests in prepared.folders()
        if not own_digests & digests and not any(folder in path.parents for path in paths)
    ]
    found += [_garbage("download", path, "an interrupted download") for path in partial_downloads(models_dir)]
    return [*found, *(_garbage("server", one.path, one.reason, one) for one in find_garbage(server_dir))]


def _needed_data(registries: Iterable[Registry]) -> tuple[set[Path], set[str]]:
    """Paths and digests of the data of every run and model; and the files that `ftpipe train` would take next."""
    latest = prepared.latest()
    paths = {latest.train.absolute()} if latest else set()
    digests: set[str | None] = set()
    for registry in registries:
        for run in registry.runs.recent(limit=None):
            datasets = (data.path for data in (run.dataset, run.validation) if data is not None)
            paths |= {path.absolute() for path in (run.spec.data, run.spec.validation, *datasets) if path is not None}
            digests |= {run.dataset_sha256, run.validation_sha256}
        for model in registry.models.recent():
            digests |= {model.dataset_sha256, model.validation_sha256}
    return paths, {digest for digest in digests if digest}


def _garbage(kind: Kind, path: Path, reason: str, server: ServerGarbage | None = None) -> Garbage:
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file() and not one.is_symlink()]
    states = [one.stat() for one in files]
    return Garbage(kind, path, reason, sum(state.st_size for state in states if state.st_nlink == 1), server)


def delete(garbage: Sequence[Garbage], *, server_dir: Path, on_error: Callable[[Path, OSError], None]) -> int:
    """Delete what ``collect`` returned, and return how many bytes that has freed.

    Args:
        garbage: What to delete.
        server_dir: Data folder of the embedded server.
        on_error: Called with what could not be deleted.
    """
    for one in garbage:
        if one.server is None:
            _delete_folder(one.path, on_error)
    delete_garbage(server_dir, [one.server for one in garbage if one.server is not None])
    return sum(one.bytes for one in garbage if not one.path.exists())


def _delete_folder(path: Path, on_error: Callable[[Path, OSError], None]) -> None:
    try:
        if not path.is_symlink():
            shutil.rmtree(path)
    except OSError as error:
        on_error(path, error)
