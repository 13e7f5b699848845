"""The graders that the start page offers: files of the project's folder that have one in OpenAI's JSON."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import read_json
from ftpipe.errors import UsageError
from ftpipe.ui.datasets.files import walk

MAX_BYTES = 1024 * 1024
"""Of a file; larger ones are no graders."""
MAX_FILES = 100
MAX_READ_FILES = 500
"""JSON files that are read to find the graders among them."""
TYPES = frozenset({"string_check", "text_similarity", "score_model", "python", "multi", "lambda"})


@dataclass(frozen=True, slots=True)
class GraderFile:
    """A file with a grader."""

    id: str
    path: Path
    """Absolute."""
    fields: dict[str, Any]

    @property
    def label(self) -> str:
        """What a list says of it: its type, and its name if it has one."""
        name = self.fields.get("name")
        return str(self.fields["type"]) + (f", {name}" if isinstance(name, str) and name else "")


class GraderFiles:
    """Lists the files and gives them ids; no path ever comes from a request.

    Args:
        folder: The project's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    def all(self) -> list[GraderFile]:
        """Every file with a grader, by path."""
        found: list[GraderFile] = []
        for number, path in enumerate(walk(self._folder, (".json",))):
            if number >= MAX_READ_FILES or len(found) >= MAX_FILES:
                break
            fields = _read(path)
            if fields is not None and isinstance(kind := fields.get("type"), str) and kind in TYPES:
                found.append(GraderFile(hashlib.sha256(os.fsencode(path)).hexdigest()[:16], path, fields))
        return found

    def get(self, file_id: str) -> GraderFile:
        """The file of an id.

        Raises:
            UsageError: There is none, or it has no grader any more.
        """
        for file in self.all():
            if file.id == file_id:
                return file
        raise UsageError("this grader does not exist any more", "choose one from the list of graders")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path) if path.stat().st_size <= MAX_BYTES else None
    except OSError:
        return None
