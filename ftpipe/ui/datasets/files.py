"""The dataset files that the page shows: those of the project, and those that were dropped on the page.

A request names a file by an id that this module has given out. No path ever comes from a request.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ftpipe.dataset import prepared
from ftpipe.errors import LocalStateError, UsageError
from ftpipe.formatting import sanitize_line
from ftpipe.output_files import open_output
from ftpipe.paths import state_dir

FOLDER = "datasets"
"""Folder in the project's state folder for files that the page has received or written."""
LISTED_SUFFIXES = (".jsonl", ".ndjson")
"""Of the files in the project's folder that are listed by themselves."""
UPLOAD_SUFFIXES = (*LISTED_SUFFIXES, ".json", ".csv", ".tsv", ".xlsx", ".parquet", ".gz", ".zst", ".txt")
MAX_UPLOAD_BYTES = 8 * 1024**3
"""As large as a file of a provider may be."""
MAX_NAME_CHARACTERS = 80
MAX_FILES, MAX_VISITED, MAX_DEPTH = 500, 20_000, 3
"""Bounds of the search in the project's folder."""
_SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__", "venv", "site-packages"})
_COPY_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class DatasetFile:
    """A file that can be shown."""

    id: str
    path: Path
    """Absolute."""
    origin: str
    """Why it is listed: ``project``, ``received``, ``prepared``, ``answers``, or ``run``."""
    size: int
    modified: float
    """UTC Unix seconds."""

    @property
    def name(self) -> str:
        """Its name without folders."""
        return self.path.name


class DatasetFiles:
    """Lists the files and gives them ids.

    Args:
        folder: The project's folder.
        named: The files that configuration, runs and the page of answers name, each with its origin.
    """

    def __init__(self, folder: Path, named: Callable[[], Iterable[tuple[str, Path]]] = lambda: ()) -> None:
        self._folder = folder.absolute()
        self._named = named
        self._known: dict[str, DatasetFile] = {}
        self._lock = threading.Lock()

    @property
    def own_folder(self) -> Path:
        """Where files that the page receives or writes are stored."""
        return state_dir(self._folder) / FOLDER

    def all(self) -> list[DatasetFile]:
        """Every file that can be shown, the newest first."""
        files: dict[Path, DatasetFile] = {}
        for origin, path in self._candidates():
            if path not in files and (file := _describe(path, origin)) is not None:
                files[path] = file
            if len(files) >= MAX_FILES:
                break
        with self._lock:
            self._known |= {file.id: file for file in files.values()}
        return sorted(files.values(), key=lambda file: (-file.modified, str(file.path)))

    def get(self, file_id: str) -> DatasetFile:
        """The file of an id.

        Raises:
            UsageError: There is none, or it does not exist any more.
        """
        known = self._known.get(file_id)
        if known is None:
            self.all()
            known = self._known.get(file_id)
        current = _describe(known.path, known.origin) if known else None
        if current is None:
            raise UsageError("this dataset does not exist any more", "choose one from the list of datasets")
        return current

    def id_of(self, path: Path) -> str:
        """The id of a file, which can be used for ``get`` from now on; empty if it does not exist."""
        file = _describe(path.absolute(), "run")
        if file is None:
            return ""
        with self._lock:
            self._known.setdefault(file.id, file)
        return file.id

    def receive(self, name: str, stream: BinaryIO) -> DatasetFile:
        """Store an uploaded file under a name of its own; the same file is stored once.

        Args:
            name: As the browser sent it; only what is safe in a file name is kept.
            stream: The content.

        Raises:
            UsageError: It is too large, or its name does not end like that of a dataset.
            LocalStateError: It cannot be written.
        """
        target = sanitize_name(name)
        digest = hashlib.sha256()
        size = 0
        while piece := stream.read(_COPY_BYTES):
            digest.update(piece)
            size += len(piece)
            if size > MAX_UPLOAD_BYTES:
                raise UsageError(
                    f"{target} is larger than {MAX_UPLOAD_BYTES // 1024**3} GB",
                    "put it into the project's folder, where it is listed without a copy",
                )
        stream.seek(0)
        return self.store(target, stream, digest.hexdigest())

    def store(self, name: str, stream: BinaryIO, sha256: str) -> DatasetFile:
        """Write a new file into the folder of the page, under the first free name; an equal file is used again.

        Args:
            name: A sanitized name.
            stream: The content.
            sha256: Its digest.

        Raises:
            LocalStateError: It cannot be written.
        """
        self._make_folder()
        for path in self._names(name):
            if path.is_file() and _digest(path) == sha256:
                return self._require(path)
            if path.exists() or path.is_symlink():
                continue
            try:
                with open_output(path) as file:
                    while piece := stream.read(_COPY_BYTES):
                        file.write(piece)
            except UsageError:  # another request took the name meanwhile
                stream.seek(0)
                continue
            return self._require(path)
        raise LocalStateError(f"{self.own_folder} has too many files named {name}", "delete some of them")

    def _names(self, name: str) -> Iterator[Path]:
        first = self.own_folder / name
        yield first
        for number in range(2, 1000):
            yield first.with_name(f"{first.stem}-{number}{first.suffix}")

    def _make_folder(self) -> None:
        folder = self.own_folder
        try:
            folder.parent.mkdir(mode=0o700, exist_ok=True)
            folder.mkdir(exist_ok=True)
        except OSError as exc:
            raise LocalStateError(
                f"{folder} cannot be created: {exc.strerror}", "check the permissions of the project's folder"
            ) from exc

    def _require(self, path: Path) -> DatasetFile:
        file = _describe(path, "received")
        if file is None:
            raise LocalStateError(f"{path} disappeared while it was written", "try again")
        with self._lock:
            self._known[file.id] = file
        return file

    def _candidates(self) -> Iterator[tuple[str, Path]]:
        yield from ((origin, path.absolute()) for origin, path in self._named())
        own = self.own_folder
        yield from (("received", path) for path in _files_in(own))
        yield from (("project", path) for path in walk(self._folder))
        latest = prepared.latest()
        if latest is not None:
            yield from (("prepared", path.absolute()) for path in (latest.train, latest.validation) if path)


def sanitize_name(name: str) -> str:
    """A file name that is safe on every system.

    Raises:
        UsageError: It does not end like the name of a dataset.
    """
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    stem, dot, ending = last.rpartition(".")
    suffix = f".{ending.lower()}"
    if not dot or suffix not in UPLOAD_SUFFIXES:
        raise UsageError(
            f"{sanitize_line(last, MAX_NAME_CHARACTERS) or 'the file'} is not named like a dataset",
            f"name it with one of {', '.join(UPLOAD_SUFFIXES)}",
        )
    clean = re.sub(r"[^\w.-]+", "-", stem).strip("-.")
    return (clean[: MAX_NAME_CHARACTERS - len(suffix)] or "data") + suffix


def _files_in(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from sorted(path for path in folder.iterdir() if path.suffix.lower() in UPLOAD_SUFFIXES)


def walk(folder: Path, suffixes: tuple[str, ...] = LISTED_SUFFIXES) -> Iterator[Path]:
    """The files of a folder with such a name; hidden folders, links and those far below are left out."""
    pending, visited = [(folder, 0)], 0
    while pending:
        current, depth = pending.pop(0)
        try:
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            visited += 1
            if visited > MAX_VISITED:
                return
            if entry.name.startswith(".") or entry.is_symlink():
                continue
            if entry.is_dir(follow_symlinks=False):
                if depth < MAX_DEPTH and entry.name not in _SKIPPED_FOLDERS:
                    pending.append((Path(entry.path), depth + 1))
            elif entry.name.lower().endswith(suffixes):
                yield Path(entry.path)


def _describe(path: Path, origin: str) -> DatasetFile | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    if not path.is_file():
        return None
    file_id = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return DatasetFile(file_id, path, origin, status.st_size, status.st_mtime)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
