"""Move what no record knows to ``lost+found`` in the data folder, where nothing is ever deleted or overwritten."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from ftpipe.atomic_files import fsync

log = logging.getLogger("ftpipe.server")

FOLDER = "lost+found"
FALLBACK_FOLDER = "lost+found-ftpipe"
"""Used if ``lost+found`` is the file system's own folder at the top of a disk, which belongs to root."""
CATEGORIES = ("files", "uploads", "jobs", "batches", "incoming")
"""The folders of the layout."""


class LostAndFound:
    """One folder in ``lost+found``, created when the first thing is moved.

    Args:
        root: The data folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._target: Path | None = None

    def move(self, path: Path, reason: str) -> Path:
        """Move a file or folder, at the same relative path, and log it.

        Args:
            path: Below the data folder.
            reason: What it is, for the log.

        Returns:
            Where it is now.
        """
        relative = path.relative_to(self._root)
        target = self._folder() / relative
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The folder is new and each path is moved once, so the target does not exist.
        path.rename(target)
        fsync(target.parent)
        fsync(path.parent)
        log.warning("moved %s to %s: %s", relative, target, reason)
        return target

    def _folder(self) -> Path:
        if self._target is None:
            stamp = time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime())
            parent = self._root / FOLDER
            parent.mkdir(exist_ok=True, mode=0o700)
            if not os.access(parent, os.W_OK | os.X_OK):
                parent = self._root / FALLBACK_FOLDER
                parent.mkdir(exist_ok=True, mode=0o700)
            number = 0
            while self._target is None:
                candidate = parent / (f"{stamp}-{number}" if number else stamp)
                try:
                    candidate.mkdir(mode=0o700)
                except FileExistsError:
                    number += 1
                else:
                    self._target = candidate
        return self._target


def count_items(root: Path) -> tuple[int, int]:
    """How many things ``lost+found`` of a data folder has, and their bytes; a job's folder is one thing."""
    items, size = 0, 0
    for parent in (root / FOLDER, root / FALLBACK_FOLDER):
        for path in parent.glob("*/*"):
            items += len(list(path.iterdir())) if path.is_dir() and path.name in CATEGORIES else 1
        size += sum(path.stat().st_size for path in parent.rglob("*") if path.is_file())
    return items, size
