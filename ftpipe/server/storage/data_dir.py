"""The server's folder: where files, parts and jobs lie, and writing so that a crash leaves nothing half."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ftpipe.errors import LocalStateError
from ftpipe.training.job_directory import JobDirectory

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,80}")


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """Paths below the data folder; ids that are no plain words name no path."""

    root: Path

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / "server.db"

    @property
    def incoming(self) -> Path:
        """Uploads that are still coming in; emptied at every start."""
        return self.root / "incoming"

    @property
    def log(self) -> Path:
        """The access and error log."""
        return self.root / "server.log"

    @property
    def lock(self) -> Path:
        """Held while a server runs on this folder."""
        return self.root / "server.lock"

    @property
    def address(self) -> Path:
        """``server.json``: where the running server listens."""
        return self.root / "server.json"

    def file(self, file_id: str) -> Path:
        """The bytes of a stored file."""
        return self.root / "files" / _validated_id(file_id)

    def upload(self, upload_id: str) -> Path:
        """The folder of an upload's parts."""
        return self.root / "uploads" / _validated_id(upload_id)

    def part(self, upload_id: str, part_id: str) -> Path:
        """The bytes of one part."""
        return self.upload(upload_id) / _validated_id(part_id)

    def job(self, job_id: str) -> JobDirectory:
        """The directory that a job shares with its trainer."""
        return JobDirectory(self.root / "jobs" / _validated_id(job_id))

    def prepare(self) -> None:
        """Make the folders, for this user only, and empty what a crash left in ``incoming``.

        Raises:
            LocalStateError: If the folder cannot be made or written.
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
    if not _PLAIN.fullmatch(name):
        message = "an id that is no plain word names no file"
        raise LocalStateError(message)
    return name


def sanitize_filename(filename: str) -> str:
    """A client's file name without folders and control characters, at most 255 characters."""
    last = filename.replace("\\", "/").rpartition("/")[2]
    clean = "".join(char for char in last if char.isprintable()).strip()
    return clean[:255] or "upload"
