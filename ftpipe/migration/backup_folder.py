"""The folder of a backup: what it holds, and a manifest with the SHA-256 and the size of each file.

::

    DIR/manifest.jsonl                 a header, then a line for each file and for everything that is missing
    DIR/SHA256SUMS                     the same hashes for ``sha256sum --check``, written when a backup is complete
    DIR/jobs/ID/job.json               also events.json and checkpoints.json
    DIR/files/ID/content.jsonl         also object.json, the file as the endpoint describes it
    DIR/models/NAME.json               the model, its base and hyperparameters
    DIR/partial/                       downloads that have not ended

A file gets its line in the manifest before it gets its name, and its name when all of it is on the disk. So after a
crash each file is the one of its line, or is not there and is read again; a complete download in ``partial`` gets its
name then.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import rename_durably, write_bytes
from ftpipe.errors import InvalidResponseError, LocalStateError, LockedError, UsageError
from ftpipe.file_hash import sha256_of_file
from ftpipe.formatting import sanitize_line
from ftpipe.migration.backup_manifest import (
    COMPLETE,
    CONTENT_SUFFIXES,
    PATH,
    BackupEntry,
    BackupHeader,
    Kind,
    MissingItem,
    MissingLine,
    parse_entry,
    parse_line,
    refuse_line,
    safe_name,
)

MANIFEST = "manifest.jsonl"
CHECKSUMS = "SHA256SUMS"
LOCK = "lock"
PARTIAL = "partial"
ABSENT = "is not there"
"""The problem of a file that is in the manifest and not on the disk."""
MAX_MANIFEST_BYTES = 1 << 30
MAX_JSON_BYTES = 1 << 28
"""The largest job, list of events or model that is read back."""
FOLDER_MODE, FILE_MODE = 0o700, 0o600
"""Training data is for its owner only."""


class BackupFolder:
    """A backup on this machine's disk; ``create`` starts or continues one, ``open`` reads one.

    Args:
        path: The folder.
        header: Where the backup comes from.

    Attributes:
        entries: Path → file that is complete.
        missing: Kind and id → what could not be saved.
    """

    def __init__(self, path: Path, header: BackupHeader) -> None:
        self.path = path
        self.header = header
        self.entries: dict[str, BackupEntry] = {}
        self.missing: dict[tuple[Kind, str], MissingItem] = {}
        self._in_this_pass: set[str | tuple[Kind, str]] = set()
        """Keys of both that were added in this pass over the endpoint; an interrupted pass is continued."""
        self._has_ended = False
        """Whether a pass over the endpoint has ended."""

    @classmethod
    def create(cls, path: Path, header: BackupHeader) -> BackupFolder:
        """Start a backup in a folder that is new or empty, or continue the one that is there.

        Raises:
            UsageError: The folder holds something else, or the backup of another endpoint.
            LocalStateError: The folder cannot be written, or the manifest was changed.
        """
        try:
            path.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
            names = {entry.name for entry in path.iterdir()}
        except OSError as exc:
            raise LocalStateError(f"cannot use the folder {path}: {exc.strerror}", "name another folder") from exc
        if MANIFEST not in names:
            others = sorted(name for name in names if not _is_leftover(name))
            if others:
                raise UsageError(
                    f"{path} holds something else: {sanitize_line(others[0], 80)}", "name a new folder for the backup"
                )
            folder = cls(path, header)
            folder._write_manifest()
            return folder
        folder = cls.open(path, is_continued=True)
        if (folder.header.provider, folder.header.endpoint) != (header.provider, header.endpoint):
            raise UsageError(
                f"{path} is a backup of {folder.header.provider} at {sanitize_line(folder.header.endpoint, 200)}, and "
                f"this is {header.provider} at {sanitize_line(header.endpoint, 200)}",
                "name another folder for this endpoint",
            )
        return folder

    @classmethod
    def open(cls, path: Path, *, is_continued: bool = False) -> BackupFolder:
        """Read the manifest of a backup.

        Args:
            path: The folder.
            is_continued: Whether a last line that a crash has cut off is removed, for a backup that goes on.

        Raises:
            UsageError: It is not a backup.
            LocalStateError: The manifest was changed, or names a path outside of the folder.
        """
        manifest = path / MANIFEST
        try:
            state = manifest.lstat()
            if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_MANIFEST_BYTES:
                raise LocalStateError(f"{manifest} is not the manifest of a backup", "use another copy of the backup")
            *lines, cut_line = manifest.read_bytes().split(b"\n")
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(
                f"{path} is not a backup: it has no {MANIFEST}", "name a folder that `ftpipe models backup` wrote"
            ) from None
        except OSError as exc:
            raise LocalStateError(f"cannot read {manifest}: {exc.strerror}", "check the folder's permissions") from exc
        if not lines:
            refuse_line(manifest, 1)
        folder = cls(path, parse_line(BackupHeader, lines[0], manifest, 1))
        for number, line in enumerate(lines[1:], start=2):
            folder._read_line(line, manifest, number)
        if cut_line and not is_continued:
            raise LocalStateError(
                f"{manifest} ends in the middle of a line", "run the same `ftpipe models backup` again to complete it"
            )
        if cut_line:
            folder._write_manifest()
        return folder

    def _read_line(self, line: bytes, manifest: Path, number: int) -> None:
        if line == COMPLETE:
            self._has_ended = True
            self._in_this_pass.clear()
        elif line.startswith(b'{"missing":'):
            self._add_missing(parse_line(MissingLine, line, manifest, number).missing)
        else:
            self._add(parse_entry(line, manifest, number))

    def _add(self, entry: BackupEntry) -> None:
        self.entries[entry.path] = entry
        self.missing.pop((entry.kind, entry.id), None)
        self._in_this_pass.add(entry.path)

    def _add_missing(self, item: MissingItem) -> None:
        self.missing[item.kind, item.id] = item
        self._in_this_pass.add((item.kind, item.id))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing into the folder, and give complete downloads of a crash their names.

        Raises:
            LockedError: Another process writes into it.
        """
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.path / LOCK, timeout=0):
                self._restore_downloads()
                yield
                shutil.rmtree(self.path / PARTIAL, ignore_errors=True)
        except Timeout:
            raise LockedError(
                f"another ftpipe writes into {self.path}", "wait until it has ended, then run the same command again"
            ) from None

    @property
    def is_interrupted(self) -> bool:
        """Whether the last backup into the folder did not come to its end."""
        return bool(self._in_this_pass) or not self._has_ended

    @property
    def partial(self) -> Path:
        """The folder for downloads that have not ended."""
        return self.path / PARTIAL

    def _restore_downloads(self) -> None:
        with _writing(self.path):
            self.partial.mkdir(mode=FOLDER_MODE, exist_ok=True)
            absent = {one.sha256: one for one in self.entries.values() if not (self.path / one.path).exists()}
            for download in self.partial.iterdir():
                entry = absent.get(sha256_of_file(download)) if download.is_file() else None
                if entry is not None:
                    rename_durably(download, self._target(entry))
                else:
                    download.unlink()

    def needs(self, path: str) -> bool:
        """Whether a file has to be read from the endpoint: it is not there, or was not final in an earlier pass."""
        entry = self.entries.get(path)
        return entry is None or not (entry.is_final or path in self._in_this_pass)

    def is_missing(self, kind: Kind, remote_id: str) -> bool:
        """Whether this pass has found already that something cannot be saved."""
        return (kind, remote_id) in self.missing and (kind, remote_id) in self._in_this_pass

    def content(self, file_id: str) -> BackupEntry | None:
        """The content of a file, if it was saved."""
        start = f"files/{safe_name(file_id)}/content"
        entries = (self.entries.get(f"{start}{suffix}") for suffix in CONTENT_SUFFIXES)
        return next((one for one in entries if one is not None), None)

    def save_json(self, entry: BackupEntry, value: object) -> None:
        """Save a JSON document under the path of ``entry``, whose hash and size are set here."""
        content = (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "replace")
        digest = hashlib.sha256(content).hexdigest()
        with _writing(self.path):
            target = self._target(entry)
            self._append(entry.model_copy(update={"sha256": digest, "bytes": len(content)}))
            write_bytes(target, content, mode=FILE_MODE)

    def save_download(self, entry: BackupEntry, downloaded: Path) -> None:
        """Give a complete download, which is in ``partial``, its path."""
        with _writing(self.path):
            target = self._target(entry)
            downloaded.chmod(FILE_MODE)
            self._append(entry)
            rename_durably(downloaded, target)

    def _target(self, entry: BackupEntry) -> Path:
        """Where a file goes; its folder exists, and is in the backup.

        Raises:
            InvalidResponseError: Another id has this path.
            LocalStateError: A part of the path is a link.
        """
        other = self.entries.get(entry.path)
        if not PATH.fullmatch(entry.path) or (other is not None and other.id != entry.id):
            raise InvalidResponseError(
                f"the id {sanitize_line(entry.id, 120)!r} cannot be told apart from another one of the endpoint",
                "report it to the provider",
            )
        target = self.path / entry.path
        target.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
        if self._has_link(target):
            raise LocalStateError(f"{target.parent} is a link to another folder", "name a new folder for the backup")
        return target

    def _has_link(self, target: Path) -> bool:
        return any(parent.is_symlink() for parent in target.parents if self.path in parent.parents)

    def note_missing(self, item: MissingItem) -> None:
        """Remember what could not be saved."""
        self._add_missing(item)
        with _writing(self.path):
            self._append_line(_missing_line(item))

    def read_json(self, entry: BackupEntry) -> dict[str, Any]:
        """A JSON object of the backup.

        Raises:
            LocalStateError: It is not what the manifest says.
        """
        problem = self.problem_of(entry) if entry.bytes <= MAX_JSON_BYTES else "is too large"
        if not problem:
            try:
                value = json.loads((self.path / entry.path).read_bytes())
            except (OSError, ValueError, RecursionError):
                value = None
            if isinstance(value, dict):
                return value
            problem = "is not a JSON object"
        raise LocalStateError(f"{self.path / entry.path} {problem}", "use another copy of the backup")

    def problem_of(self, entry: BackupEntry) -> str:
        """What is wrong with a file on the disk: empty if it is exactly as the manifest says."""
        path = self.path / entry.path
        try:
            if self._has_link(path):
                return "is in a folder that is a link"
            state = path.lstat()
            if not stat.S_ISREG(state.st_mode):
                return "is not a plain file"
            if state.st_size != entry.bytes:
                return f"has {state.st_size:,} bytes, and the manifest says {entry.bytes:,}"
            return "" if sha256_of_file(path) == entry.sha256 else "does not have the SHA-256 of the manifest"
        except (FileNotFoundError, NotADirectoryError):
            return ABSENT
        except OSError as exc:
            return f"cannot be read: {exc.strerror}"

    def check(
        self, entries: Iterable[BackupEntry], on_progress: Callable[[int, int], None] = lambda _done, _total: None
    ) -> dict[str, str]:
        """Path → problem of those files that are not as the manifest says; ``on_progress`` counts bytes."""
        checked = list(entries)
        total, done = sum(entry.bytes for entry in checked), 0
        problems = {}
        for entry in checked:
            if problem := self.problem_of(entry):
                problems[entry.path] = problem
            done += entry.bytes
            on_progress(done, total)
        return problems

    def drop(self, path: str) -> None:
        """Remove a damaged file, so that it is read from the endpoint again."""
        del self.entries[path]
        if not self._has_link(self.path / path):
            with _writing(self.path):
                (self.path / path).unlink(missing_ok=True)

    def complete(self) -> None:
        """End a pass over the endpoint: write the manifest anew, with one line for each file, and the checksums."""
        self._has_ended = True
        self._in_this_pass.clear()
        sums = "".join(f"{entry.sha256}  {path}\n" for path, entry in sorted(self.entries.items()))
        with _writing(self.path):
            write_bytes(self.path / CHECKSUMS, sums.encode(), mode=FILE_MODE)
            self._write_manifest()

    def _write_manifest(self) -> None:
        lines: dict[bool, list[str]] = {False: [], True: []}
        for path, entry in sorted(self.entries.items()):
            lines[path in self._in_this_pass].append(entry.model_dump_json())
        for key, item in sorted(self.missing.items()):
            lines[key in self._in_this_pass].append(_missing_line(item))
        earlier = [*lines[False], COMPLETE.decode()] if self._has_ended else []
        text = "".join(f"{line}\n" for line in (self.header.model_dump_json(), *earlier, *lines[True]))
        write_bytes(self.path / MANIFEST, text.encode(), mode=FILE_MODE)

    def _append(self, entry: BackupEntry) -> None:
        self._add(entry)
        self._append_line(entry.model_dump_json())

    def _append_line(self, line: str) -> None:
        with (self.path / MANIFEST).open("ab") as file:  # a line that a power cut removes makes its file be read again
            file.write(f"{line}\n".encode())


def _missing_line(item: MissingItem) -> str:
    return MissingLine(missing=item).model_dump_json()


def _is_leftover(name: str) -> bool:
    """Whether a backup that was killed before it had a manifest leaves a file of that name."""
    return name in (LOCK, PARTIAL) or name.startswith(f".{MANIFEST}.")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise LocalStateError(
            f"cannot write to {folder}: {exc.strerror or exc}",
            "check the folder and the free disk space, then run the same command again",
        ) from exc
