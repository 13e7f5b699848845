"""The server's data folder: the paths of files, parts and jobs, and the marker that says that the folder is ours."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ftpipe.atomic_files import fsync, read_json
from ftpipe.errors import LocalStateError
from ftpipe.paths import SERVER_KEY_FILE
from ftpipe.server.storage.lost_and_found import CATEGORIES, FALLBACK_FOLDER
from ftpipe.server.storage.lost_and_found import FOLDER as LOST_AND_FOUND
from ftpipe.training.job_directory import JobDirectory

log = logging.getLogger("ftpipe.server")

MARKER_NAME = "ftpipe-data.json"
MARKER_SCHEMA = "ftpipe.data/1"
_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")
_BODY_NAME = re.compile(r"body-[0-9a-f]{32}")
_STARTUP_NAMES = frozenset({SERVER_KEY_FILE, "start.lock", "server.lock", "server.log", "server.json", LOST_AND_FOUND})
"""What a new folder may have: what is written before the marker, and the folder that some file systems make."""


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """Paths in the data folder."""

    root: Path

    @property
    def fingerprint(self) -> str:
        """Identifies the folder without revealing its path."""
        return hashlib.sha256(str(self.root.resolve()).encode()).hexdigest()[:16]

    @property
    def marker(self) -> Path:
        """Says that the folder was made by this server; without it, nothing in it is touched."""
        return self.root / MARKER_NAME

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / "server.db"

    @property
    def incoming(self) -> Path:
        """Request bodies that are still being received; those of an earlier server are deleted at the start."""
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

    @property
    def inference_status(self) -> Path:
        """``inference.json``: whether the inference server works that answers for this one."""
        return self.root / "inference.json"

    @property
    def token(self) -> Path:
        """The key of a server on loopback, unless others were named."""
        return self.root / SERVER_KEY_FILE

    @property
    def shadow_key(self) -> Path:
        """The secret for digests of mirrored chats; a copy of the database alone cannot be searched for texts."""
        return self.root / "shadow.key"

    def file(self, file_id: str) -> Path:
        """The content of a stored file."""
        return self.root / "files" / _validated_id(file_id)

    def upload(self, upload_id: str) -> Path:
        """The folder of an upload's parts."""
        return self.root / "uploads" / _validated_id(upload_id)

    def part(self, upload_id: str, part_id: str) -> Path:
        """The content of one part."""
        return self.upload(upload_id) / _validated_id(part_id)

    def batch(self, batch_id: str) -> Path:
        """The input file of a batch that has not ended: a link, so that the batch keeps it when the file is deleted."""
        return self.root / "batches" / _validated_id(batch_id)

    def job(self, job_id: str) -> JobDirectory:
        """The job directory, which the server shares with the trainer."""
        return JobDirectory(self.root / "jobs" / _validated_id(job_id))

    def prepare(self) -> None:
        """Create the folder with its marker, or check that it has one; then create what is missing in it.

        Raises:
            LocalStateError: If the folder has content but no marker, has a symbolic link in it, or cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._claim()
            self.refuse_links()
            for name in CATEGORIES:
                (self.root / name).mkdir(exist_ok=True, mode=0o700)
            self._restrict_access()
        except OSError as exc:
            message = f"the server's folder {self.root} cannot be used: {exc}"
            raise LocalStateError(message, "choose another with --data-dir") from exc

    def _claim(self) -> None:
        """Write the marker into a new folder.

        The content is listed before the marker is read: another server may be claiming the same folder.
        """
        foreign = sorted(path.name for path in self.root.iterdir() if not _is_startup_file(path))
        if self.marker.is_symlink() or self.marker.exists():
            self._check_marker()
            return
        if foreign:
            message = f"{self.root} was not made by `ftpipe serve`: it has {_names(foreign)}, but no {MARKER_NAME}"
            hint = f"choose a new folder with --data-dir; if it is the server's, put its {MARKER_NAME} back"
            raise LocalStateError(message, hint)
        temporary = self.root / f".{MARKER_NAME}.{secrets.token_hex(8)}"
        content = f'{{"schema": "{MARKER_SCHEMA}", "id": "{secrets.token_hex(16)}"}}\n'
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            with suppress(FileExistsError):  # another server was first
                self.marker.hardlink_to(temporary)
        finally:
            temporary.unlink()
        fsync(self.root)

    def _check_marker(self) -> None:
        schema = None if self.marker.is_symlink() else (read_json(self.marker) or {}).get("schema")
        if schema == MARKER_SCHEMA:
            return
        message = f"{self.marker} is not a marker that this ftpipe knows"
        if isinstance(schema, str) and schema.startswith("ftpipe.data/"):
            message = f"{self.root} was made by another version of ftpipe ({schema})"
        raise LocalStateError(message, "choose a new folder with --data-dir, or restore this one from a backup")

    def has_marker(self) -> bool:
        """Whether the folder was made by a server of this version."""
        return not self.marker.is_symlink() and (read_json(self.marker) or {}).get("schema") == MARKER_SCHEMA

    def refuse_links(self) -> None:
        """Refuse symbolic links anywhere in the layout: what they lead to is not the server's.

        Raises:
            LocalStateError: There is one.
        """
        for folder, folders, files in os.walk(self.root):
            for name in (*folders, *files):
                path = Path(folder, name)
                if path.is_symlink():
                    message = f"{path} is a symbolic link, and what it leads to is not the server's"
                    hint = "remove the link; to use another disk, put the whole folder there with --data-dir"
                    raise LocalStateError(message, hint)
            if Path(folder) == self.root:
                folders[:] = [name for name in folders if name not in (LOST_AND_FOUND, FALLBACK_FOLDER)]

    def _restrict_access(self) -> None:
        """Take other users' access to the folder away, if it belongs to this user."""
        for path in (self.root, *(self.root / name for name in CATEGORIES)):
            state = path.stat()
            if not state.st_mode & 0o077:
                continue
            if state.st_uid == os.geteuid():
                path.chmod(0o700)
                log.warning("other users could enter %s; its mode is now 0700", path)
            else:
                log.warning("other users can enter %s, and it belongs to another user", path)


def _is_startup_file(path: Path) -> bool:
    return path.name in _STARTUP_NAMES or path.name.startswith(f".{MARKER_NAME}.")


def _names(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def new_body_path(folder: Path) -> Path:
    """A new name in ``incoming`` for bytes that are not stored yet; :func:`is_body` knows it again after a crash."""
    return folder / f"body-{secrets.token_hex(16)}"


def is_body(path: Path) -> bool:
    """True for a file that :func:`new_body_path` named."""
    return bool(_BODY_NAME.fullmatch(path.name)) and path.is_file() and not path.is_symlink()


def is_valid_id(name: str) -> bool:
    """True if a name can be the id of a file, an upload, a job or a batch."""
    return bool(_ID.fullmatch(name))


def _validated_id(name: str) -> str:
    if not is_valid_id(name):
        message = "invalid id: expected letters, digits, '-' or '_'"
        raise LocalStateError(message)
    return name


def sanitize_filename(filename: str) -> str:
    """A client's file name without folders and control characters, at most 255 characters."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    clean = "".join(char for char in name if char.isprintable()).strip()
    return clean[:255] or "upload"
