"""Upload a dataset to an endpoint; bytes that are already there are not sent again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from ftpipe.errors import (
    ConnectionFailedError,
    DatasetError,
    FtpipeError,
    NotFoundError,
    RateLimitError,
    RequestRefusedError,
    ResponseLostError,
)
from ftpipe.file_hash import sha256_of_file
from ftpipe.providers.provider import Provider
from ftpipe.providers.responses import RemoteFile
from ftpipe.providers.retry import is_transient, retry
from ftpipe.records import Dataset, UploadedFile
from ftpipe.registry import Registry
from ftpipe.stages.multipart_upload import MultipartUpload

UNUSABLE_STATUSES = frozenset({"error", "deleted", "deleting"})
"""File statuses with which no job can be created."""
MAX_PROCESSING_SECONDS = 1800.0
"""How long a file may be in processing."""
MAX_HASHED_BYTES = 64 * 1024 * 1024
"""Files at the endpoint up to this size are compared by content, larger ones by their content name and size."""
MAX_ATTEMPTS = 3
"""How often a file is sent if the response is lost and the file is not at the endpoint; uploads are not paid."""


def content_name(dataset: Dataset, *, run_id: str = "") -> str:
    """The name a dataset has at an endpoint: the same bytes have the same name, within a run if one is given."""
    return f"ftpipe-{dataset.sha256[:16]}{f'-{run_id}' if run_id else ''}.jsonl"


@dataclass
class UploadDataset:
    """Uploads a dataset, or finds the same bytes at the endpoint."""

    dataset: Dataset
    """Its digest is checked against the bytes that are sent."""
    provider: Provider
    registry: Registry
    """Remembers files and parts, so that an upload continues after a crash."""
    run_id: str = ""
    """The run that the file is for, at endpoints where the file alone tells which run a job belongs to."""
    on_progress: Callable[[int, int], None] = lambda _done, _total: None
    """Is called with the bytes that are done and all bytes."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.time
    """UTC Unix seconds."""

    def run(self) -> UploadedFile:
        """Bring the dataset to the endpoint.

        Raises:
            DatasetError: The file on disk has changed, or the endpoint refuses its content.
            ProviderError: The endpoint cannot be reached or refuses the upload; no job exists.
        """
        self._check_unchanged()
        file, reused = self._find_existing() or self._send()
        file = self._wait_until_processed(file)
        uploaded = UploadedFile(
            id=file.id,
            endpoint=self.provider.endpoint,
            sha256=self.dataset.sha256,
            bytes=self.dataset.bytes,
            filename=file.filename or self._name,
            created_at=file.created_at,
            reused=reused,
        )
        self.registry.files.save(uploaded)
        return uploaded

    @property
    def _name(self) -> str:
        return content_name(self.dataset, run_id=self.run_id)

    def _find_existing(self) -> tuple[RemoteFile, bool] | None:
        """The file at the endpoint, if it is there: as remembered, or found by its content name."""
        files, endpoint, sha256 = self.provider.files, self.provider.endpoint, self.dataset.sha256
        remembered = None if self.run_id else self.registry.files.find(endpoint, sha256)
        if remembered is not None:
            try:
                file = files.get(remembered.id)
                if file.status not in UNUSABLE_STATUSES:
                    return file, True
            except NotFoundError:
                pass
            self.registry.files.delete(endpoint, sha256)
        for file in files.find(filename=self._name, size=self.dataset.bytes):
            if file.status not in UNUSABLE_STATUSES and self._is_same(file):
                return file, True
        return None

    def _is_same(self, file: RemoteFile) -> bool:
        """Whether a file at the endpoint holds the dataset's bytes, as far as the endpoint lets us see."""
        if self.dataset.bytes > MAX_HASHED_BYTES:
            return True
        try:
            content = self.provider.files.content(file.id)
        except FtpipeError:
            return True  # not every endpoint serves the content; name and size carry the digest already
        return hashlib.sha256(content).hexdigest() == self.dataset.sha256

    def _send(self) -> tuple[RemoteFile, bool]:
        dataset, profile = self.dataset, self.provider.profile
        if dataset.bytes > profile.max_file_bytes:
            raise RequestRefusedError(
                f"{dataset.path} has {dataset.bytes:,} bytes; {profile.name} accepts at most "
                f"{profile.max_file_bytes:,}",
                "train on fewer examples: `ftpipe prepare` shows the longest ones",
            )
        if dataset.bytes > profile.uploads_above_bytes and self.provider.uploads is not None:
            upload = MultipartUpload(
                dataset,
                filename=self._name,
                provider=self.provider,
                uploads=self.provider.uploads,
                repository=self.registry.uploads,
                on_progress=self.on_progress,
                clock=self.clock,
            )
            return upload.run(), False
        return self._send_whole()

    def _send_whole(self) -> tuple[RemoteFile, bool]:
        dataset, files, name = self.dataset, self.provider.files, self._name
        failed_uploads: list[FtpipeError] = []

        def send() -> tuple[RemoteFile, bool]:
            try:
                file = files.upload(
                    dataset.path,
                    filename=name,
                    on_bytes=lambda done: self.on_progress(min(done, dataset.bytes), dataset.bytes),
                )
            except (ResponseLostError, ConnectionFailedError, RateLimitError) as exc:
                if not isinstance(exc, RateLimitError):
                    received = files.find(filename=name, size=dataset.bytes)
                    if received:
                        return received[0], True
                failed_uploads.append(exc)
                raise
            self._check_unchanged()
            return file, False

        return retry(
            send,
            # an error of the search is not retried here: the search has its own retries
            retry_on=lambda exc: exc in failed_uploads and (is_transient(exc) or isinstance(exc, ResponseLostError)),
            attempts=MAX_ATTEMPTS,
            first_wait=1,
            max_wait=20,
            sleep=self.sleep,
        )

    def _wait_until_processed(self, file: RemoteFile) -> RemoteFile:
        """Wait until the endpoint has processed the file, if it needs that before a job can use it."""
        profile = self.provider.profile
        waited, pause = 0.0, 1.0
        while profile.wait_file_processed and file.status not in UNUSABLE_STATUSES | {"processed"}:
            if waited >= MAX_PROCESSING_SECONDS:
                raise RequestRefusedError(
                    f"file {file.id} is still {file.status!r} after {MAX_PROCESSING_SECONDS / 60:.0f} minutes",
                    "the endpoint is slow or stuck; run `ftpipe resume` later to continue from here; nothing was paid",
                )
            self.sleep(pause)
            waited, pause = waited + pause, min(pause * 1.5, 30.0)
            file = self.provider.files.get(file.id)
        if file.status in UNUSABLE_STATUSES:
            why = file.status_details or f"its status is {file.status!r}"
            raise DatasetError(
                f"{profile.title or profile.name} refused {self.dataset.path.name}: {why}",
                "fix the lines that the message names, then run `ftpipe train` again; nothing was paid",
            )
        return file

    def _check_unchanged(self) -> None:
        """Make sure that the bytes on disk are those that were checked and counted."""
        path = self.dataset.path
        try:
            digest = sha256_of_file(path)
        except OSError as exc:
            raise DatasetError(
                f"cannot read {path}: {exc.strerror}",
                "restore the file, then run `ftpipe resume`; nothing was paid",
            ) from exc
        if digest != self.dataset.sha256:
            raise DatasetError(
                f"{path} has changed since it was checked",
                "run `ftpipe train` again: the new content is checked and counted first; nothing was paid",
            )
