"""What stages ask of the registry, as small ports, so that a stage can be called with a memory of one's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ftpipe.records import UploadedFile
from ftpipe.registry.files import OpenUpload
from ftpipe.registry.journal import Operation


class UploadPartStore(Protocol):
    """Parts of uploads, kept as they come."""

    def find(self, endpoint: str, sha256: str) -> OpenUpload | None:
        """The upload of these bytes that was begun."""
        ...

    def begin(self, endpoint: str, sha256: str, *, upload_id: str, part_bytes: int, expires_at: float) -> None:
        """An upload was begun."""
        ...

    def add(self, upload_id: str, *, number: int, part_id: str, sha256: str) -> None:
        """A part has arrived."""
        ...

    def drop(self, endpoint: str, sha256: str) -> None:
        """An upload is complete, or no use any more."""
        ...


class FileStore(Protocol):
    """Files at endpoints."""

    @property
    def uploads(self) -> UploadPartStore:
        """Parts of uploads."""
        ...

    def file(self, endpoint: str, sha256: str) -> UploadedFile | None:
        """The file with these bytes."""
        ...

    def save_file(self, file: UploadedFile) -> None:
        """A file is there."""
        ...

    def forget_file(self, endpoint: str, sha256: str) -> None:
        """A file is gone."""
        ...


class JournalPort(Protocol):
    """The journal of paid calls."""

    def find(self, key: str) -> Operation | None:
        """The operation with that key."""
        ...

    def record_intent(
        self,
        *,
        key: str,
        run_id: str,
        kind: str,
        endpoint: str,
        request_sha256: str,
        estimated_cost: float | None = None,
        listed_before: Iterable[str] = (),
    ) -> Operation:
        """Commit the intent to call."""
        ...

    def jobs_of_other_runs(self, endpoint: str, *, run_id: str) -> set[str]:
        """Jobs at an endpoint that other runs have."""
        ...

    def confirm(self, key: str, remote_id: str) -> None:
        """It was executed."""
        ...

    def reject(self, key: str, why: str) -> None:
        """It was surely not executed."""
        ...

    def mark_unknown(self, key: str, why: str) -> None:
        """It may have been executed."""
        ...
