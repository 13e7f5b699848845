"""The server's data folder: the paths of files, parts and jobs."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ftpipe.errors import LocalStateError
from ftpipe.training.job_directory import JobDirectory

_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """Paths in the data folder."""

    root: Path

    @property
    def fingerprint(self) -> str:
        """Identifies the folder without revealing its path."""
        return hashlib.sha256(str(self.root.resolve()).encode()).hexdigest()[:16]

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / "server.db"

    @property
    def incoming(self) -> Path:
        """Request bodies that are still being received; emptied at every start."""
        return self.root / "incoming"

    @property
    def log(self) -> Path:
        """The access and error log."""
        return self.root / "server.log"

    @property
    def lock(self) -> Path:
        """Locked while a server runs on this folder."""
        return self.root / "server.lock"

    @property
    def address(self) -> Path:
        """``server.json``: where the running server listens."""
        return self.root / "server.json"

    def file(self, file_id: str) -> Path:
        """The content of a stored file."""
        return self.root / "files" / _validated_id(file_id)

    def upload(self, upload_id: str) -> Path:
        """The folder of an upload's parts."""
        return self.root / "uploads" / _validated_id(upload_id)

    def part(self, upload_id: str, part_id: str) -> Path:
        """The content of one part."""
        return self.upload(upload_id) / _validated_id(part_id)

    def job(self, job_id: str) -> JobDirectory:
        """The job directory, which the server shares with the trainer."""
        return JobDirectory(self.root / "jobs" / _validated_id(job_id))

    def prepare(self) -> None:
        """Create the folders, for this user only, and delete what a crash left in ``incoming``.

        Raises:
            LocalStateError: If the folder cannot be created or written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.rmtree(self.incoming, ignore_errors=True)
            for name in ("files", "uploads", "jobs", "incoming"):
                (self.root / name).mkdir(exist_ok=True, mode=0o700)
        except OSError as exc:
            message = f"the server's folder {self.root} cannot be used: {exc}"
            raise LocalStateError(message, "choose another with --data-dir") from exc


def _validated_id(name: str) -> str:
    if not _ID.fullmatch(name):
        message = "invalid id: expected letters, digits, '-' or '_'"
        raise LocalStateError(message)
    return name


def sanitize_filename(filename: str) -> str:
    """A client's file name without folders and control characters, at most 255 characters."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    clean = "".join(char for char in name if char.isprintable()).strip()
    return clean[:255] or "upload"
