"""The lines of a backup's manifest, and the paths that it can name."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Literal, NoReturn, TypeVar

from pydantic import Field, ValidationError

from ftpipe.errors import LocalStateError
from ftpipe.formatting import sanitize_line
from ftpipe.records import Record

NAME = r"[a-z0-9][a-z0-9._-]{0,150}"
OTHER_SUFFIX = ".bin"
CONTENT_SUFFIXES = (".jsonl", ".csv", ".json", ".txt", OTHER_SUFFIX)
"""Suffixes that the content of a file can have in a backup."""
PATH = re.compile(
    rf"jobs/{NAME}/(job|events|checkpoints)\.json|models/{NAME}\.json"
    rf"|files/{NAME}/(object\.json|content({'|'.join(map(re.escape, CONTENT_SUFFIXES))}))"
)
"""The only paths that a manifest can name."""
DIGEST = re.compile(r"[0-9a-f]{64}")
ENDS_LIKE_A_DIGEST = re.compile(r"-[0-9a-f]{16}")
RESERVED_NAMES = frozenset({"con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in range(10))})
"""Names that are devices on Windows, whatever their extension."""
MAX_NAME_CHARACTERS = 80
MAX_LINE_BYTES = 1 << 20
COMPLETE = b'{"complete":true}'
"""The line after which everything that the endpoint has was read once."""

Kind = Literal["job", "events", "checkpoints", "object", "content", "model"]
R = TypeVar("R", bound=Record)


class BackupHeader(Record):
    """The first line of a manifest."""

    format: Literal["ftpipe.backup/1"] = "ftpipe.backup/1"
    provider: str
    endpoint: str
    """Fingerprint for which the ids are valid."""
    base_url: str
    created_at: int
    """UTC Unix seconds."""


class BackupEntry(Record):
    """One file of a backup."""

    path: str
    """Relative to the folder, with ``/``."""
    sha256: str = ""
    bytes: Annotated[int, Field(ge=0)] = 0
    kind: Kind
    id: str
    """The endpoint's id of the job, file or model."""
    filename: str = ""
    """What the endpoint calls the file; no path is made from it."""
    created_at: int = 0
    announced_bytes: int | None = None
    """The size that the endpoint gives, if the content has another one."""
    is_final: bool = True
    """Whether the endpoint will not change it any more; a running job is read again by the next backup."""


class MissingItem(Record):
    """Something that could not be saved."""

    kind: Kind
    id: str
    """The endpoint's id; of a job that names none, the job's id and the name of the field."""
    reason: str
    """What the endpoint answered."""
    code: str
    """Why: ``not_found`` (deleted), ``authentication`` (forbidden), or another code of an error."""

    @property
    def is_gone(self) -> bool:
        """Whether the endpoint says that it does not exist, so that no later backup can save it."""
        return self.code in ("not_found", "not_named")


class MissingLine(Record):
    """The line of a manifest for something that could not be saved."""

    missing: MissingItem


def safe_name(remote_id: str) -> str:
    """A part of a path for an id of an endpoint: different for different ids, also where case does not count."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", remote_id.lower()).strip("-._")[:MAX_NAME_CHARACTERS].rstrip("-._")
    is_plain = slug == remote_id and slug.split(".")[0] not in RESERVED_NAMES and not ENDS_LIKE_A_DIGEST.search(slug)
    return (
        slug if is_plain else f"{slug or 'id'}-{hashlib.sha256(remote_id.encode('utf-8', 'replace')).hexdigest()[:16]}"
    )


def content_suffix(filename: str) -> str:
    """The suffix for a file's content: a known one of its name at the endpoint, else ``.bin``."""
    suffix = Path(filename.lower()).suffix
    return suffix if suffix in CONTENT_SUFFIXES else OTHER_SUFFIX


def parse_line(kind: type[R], line: bytes, manifest: Path, number: int) -> R:
    """The record in a line of a manifest.

    Raises:
        LocalStateError: It is not such a line.
    """
    if len(line) > MAX_LINE_BYTES:
        refuse_line(manifest, number)
    try:
        return kind.model_validate_json(line)
    except ValidationError:
        refuse_line(manifest, number)


def parse_entry(line: bytes, manifest: Path, number: int) -> BackupEntry:
    """The file in a line of a manifest.

    Raises:
        LocalStateError: It is not such a line, or it names a path that no backup has.
    """
    entry = parse_line(BackupEntry, line, manifest, number)
    if not PATH.fullmatch(entry.path):
        raise LocalStateError(
            f"line {number} of {manifest} names {sanitize_line(entry.path, 120)!r}, which is not a path of a backup",
            "the backup was changed: use another copy of it",
        )
    if not DIGEST.fullmatch(entry.sha256):
        refuse_line(manifest, number)
    return entry


def refuse_line(manifest: Path, number: int) -> NoReturn:
    """Raise for a line that no backup writes.

    Raises:
        LocalStateError: Always.
    """
    raise LocalStateError(
        f"line {number} of {manifest} is not a line of a manifest", "the backup was changed: use another copy of it"
    )
