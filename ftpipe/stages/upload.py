"""Upload: from a dataset to a file at the endpoint; bytes that are there already are not sent again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

from ftpipe.errors import (
    ConnectionFailedError,
    DatasetError,
    FtpipeError,
    NotFoundError,
    RateLimitError,
    RequestRefusedError,
    ResponseLostError,
)
from ftpipe.providers.provider import Provider
from ftpipe.providers.responses import RemoteFile
from ftpipe.providers.retry import is_transient, retry
from ftpipe.records import Dataset, UploadedFile
from ftpipe.stages.multipart_upload import upload_in_parts
from ftpipe.stages.ports import FileStore

BROKEN = frozenset({"error", "deleted", "deleting"})
"""File statuses with which no job can be created."""
WAIT_SECONDS = 1800.0
"""How long a file may be in processing."""
HASH_MOST_BYTES = 64 * 1024 * 1024
"""Found files up to this size are compared by content, larger ones by their content name and size."""

MAX_ATTEMPTS = 3
"""How often a file is sent whose answer was lost and that is not at the endpoint; uploads are not paid."""

OnBytes = Callable[[int, int], None]
"""Hears bytes done and bytes in all."""


def quiet(_done: int, _total: int) -> None:
    """Say nothing of the progress."""


def content_name(dataset: Dataset) -> str:
    """The name a dataset has at an endpoint: the same bytes have the same name."""
    return f"ftpipe-{dataset.sha256[:16]}.jsonl"


def upload(
    dataset: Dataset,
    *,
    provider: Provider,
    memory: FileStore,
    on_progress: OnBytes = quiet,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.time,
) -> UploadedFile:
    """Bring a dataset to an endpoint, once.

    Args:
        dataset: What to upload; its digest is checked against the bytes that are sent.
        provider: The endpoint.
        memory: Remembers files and parts, so that an upload goes on after a crash.
        on_progress: Hears bytes done and bytes in all.
        sleep: Waits.
        clock: UTC Unix seconds.

    Raises:
        DatasetError: The file on disk is not the dataset any more, or the endpoint refuses its content.
        ProviderError: The endpoint cannot be reached or says no; nothing of a job exists.
    """
    _check_unchanged(dataset)
    found = _find_existing(dataset, provider, memory)
    if found is None:
        found = _send(dataset, provider, memory, on_progress, sleep, clock)
    file = _processed(dataset, found[0], provider, sleep)
    uploaded = UploadedFile(
        id=file.id,
        endpoint=provider.endpoint,
        sha256=dataset.sha256,
        bytes=dataset.bytes,
        filename=file.filename or content_name(dataset),
        created_at=file.created_at,
        reused=found[1],
    )
    memory.save_file(uploaded)
    return uploaded


def _find_existing(dataset: Dataset, provider: Provider, memory: FileStore) -> tuple[RemoteFile, bool] | None:
    """The file at the endpoint, where it has it: as remembered, or found by its content name."""
    remembered = memory.file(provider.endpoint, dataset.sha256)
    if remembered is not None:
        try:
            file = provider.files.get(remembered.id)
            if file.status not in BROKEN:
                return file, True
        except NotFoundError:
            pass
        memory.forget_file(provider.endpoint, dataset.sha256)
    for file in provider.files.find(filename=content_name(dataset), size=dataset.bytes):
        if file.status not in BROKEN and _is_same(file, dataset, provider):
            return file, True
    return None


def _is_same(file: RemoteFile, dataset: Dataset, provider: Provider) -> bool:
    """Whether a found file holds the dataset's bytes, as far as the endpoint lets us see."""
    if dataset.bytes > HASH_MOST_BYTES:
        return True
    try:
        content = provider.files.content(file.id)
    except FtpipeError:
        return True  # not every endpoint serves the content; name and size carry the digest already
    return hashlib.sha256(content).hexdigest() == dataset.sha256


def _send(
    dataset: Dataset,
    provider: Provider,
    memory: FileStore,
    on_progress: OnBytes,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> tuple[RemoteFile, bool]:
    profile = provider.profile
    if dataset.bytes > profile.max_file_bytes:
        raise RequestRefusedError(
            f"{dataset.path} has {dataset.bytes:,} bytes; {profile.name} takes {profile.max_file_bytes:,}",
            "train on fewer examples: `ftpipe prepare` shows the longest ones",
        )
    name = content_name(dataset)
    if dataset.bytes > profile.uploads_above_bytes and profile.uploads_api:
        return upload_in_parts(
            dataset, filename=name, provider=provider, memory=memory.uploads, on_progress=on_progress, clock=clock
        ), False

    failed_uploads: list[FtpipeError] = []

    def send() -> tuple[RemoteFile, bool]:
        try:
            file = provider.files.upload(
                dataset.path, filename=name, on_bytes=lambda done: on_progress(min(done, dataset.bytes), dataset.bytes)
            )
        except (ResponseLostError, ConnectionFailedError, RateLimitError) as exc:
            if not isinstance(exc, RateLimitError):
                received = provider.files.find(filename=name, size=dataset.bytes)
                if received:
                    return received[0], True
            failed_uploads.append(exc)
            raise
        _check_unchanged(dataset)
        return file, False

    return retry(
        send,
        # an error of the search is not retried here: the search has its own retries
        retry_on=lambda exc: exc in failed_uploads and (is_transient(exc) or isinstance(exc, ResponseLostError)),
        attempts=MAX_ATTEMPTS,
        first_wait=1,
        max_wait=20,
        sleep=sleep,
    )


def _processed(dataset: Dataset, file: RemoteFile, provider: Provider, sleep: Callable[[float], None]) -> RemoteFile:
    """Wait until the endpoint has processed the file, where it says so and asks for it."""
    waited, pause = 0.0, 1.0
    while provider.profile.wait_file_processed and file.status not in BROKEN | {"processed"}:
        if waited >= WAIT_SECONDS:
            raise RequestRefusedError(
                f"file {file.id} is still {file.status!r} after {WAIT_SECONDS / 60:.0f} minutes",
                "the endpoint is slow or stuck: `ftpipe resume` later goes on from here; nothing was paid",
            )
        sleep(pause)
        waited, pause = waited + pause, min(pause * 1.5, 30.0)
        file = provider.files.get(file.id)
    if file.status in BROKEN:
        why = file.status_details or f"its status is {file.status!r}"
        raise DatasetError(
            f"{provider.profile.title or provider.profile.name} refused {dataset.path.name}: {why}",
            "mend the lines that it names, then `ftpipe train` again; nothing was paid",
        )
    return file


def _check_unchanged(dataset: Dataset) -> None:
    """Make sure that the bytes on disk are those that were checked and counted."""
    try:
        with dataset.path.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
    except OSError as exc:
        raise DatasetError(
            f"cannot read {dataset.path}: {exc.strerror}", "put the file back, then `ftpipe resume`; nothing was paid"
        ) from exc
    if digest != dataset.sha256:
        raise DatasetError(
            f"{dataset.path} has changed since it was checked",
            "run `ftpipe train` again: the new content is checked and counted first; nothing was paid",
        )
