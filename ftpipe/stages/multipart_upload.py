"""Upload a large file in parts: several at a time, in constant memory, continuing after a crash."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

from ftpipe.errors import (
    ConnectionFailedError,
    DatasetError,
    InvalidResponseError,
    NotFoundError,
    ProviderError,
    RequestRefusedError,
    ResponseLostError,
)
from ftpipe.providers.interface import Uploads
from ftpipe.providers.provider import Provider
from ftpipe.providers.responses import RemoteFile
from ftpipe.providers.retry import is_transient, retry
from ftpipe.records import Dataset
from ftpipe.registry.files import OpenUpload, UploadRepository

T = TypeVar("T")

MAX_PARALLEL_PARTS = 3
"""Parts in flight; each holds one part in memory."""
DRAIN_SECONDS = 2.0
"""How long to wait for the parts in flight when another one has failed: those that arrive are not sent again."""
MAX_ATTEMPTS = 5
"""How often one part is sent; a part that arrived twice does no harm, its second id is used."""
MIN_SECONDS_LEFT = 120.0
"""An upload that expires sooner is not continued. Source: uploads expire after an hour, API description."""
DEFAULT_LIFETIME_SECONDS = 3600.0
"""How long an upload lives if the endpoint does not say. Source: as above."""
UPLOAD_GONE_ERRORS = (NotFoundError, RequestRefusedError)
"""How an endpoint answers for an upload that has expired or was dropped there, whatever our clock says."""


@dataclass
class MultipartUpload:
    """Sends a dataset through the Uploads API."""

    dataset: Dataset
    filename: str
    provider: Provider
    uploads: Uploads
    """The provider's."""
    repository: UploadRepository
    """Remembers the parts that have arrived."""
    on_progress: Callable[[int, int], None]
    """Is called with the bytes that are done and all bytes."""
    clock: Callable[[], float] = time.time
    """UTC Unix seconds."""

    def run(self) -> RemoteFile:
        """Start the upload, or continue the one that was started before, and complete it.

        Raises:
            DatasetError: The file changed while it was read.
            ProviderError: The endpoint cannot be reached or refuses the upload; `ftpipe resume` continues with the
                parts that arrived.
        """
        for is_last in (False, True):
            upload = self._start_or_continue()
            try:
                part_ids, md5 = self._send_parts(upload)
                file = self._complete(upload, part_ids, md5)
            except DatasetError:
                self.uploads.cancel(upload.upload_id)
                self._forget()
                raise
            except UPLOAD_GONE_ERRORS:
                self._forget()
                if is_last:
                    raise
            else:
                self._forget()
                return file
        raise ResponseLostError(
            f"{self.dataset.path} could not be uploaded", "run `ftpipe resume` to try again; nothing was paid"
        )

    def _start_or_continue(self) -> OpenUpload:
        endpoint, sha256 = self.provider.endpoint, self.dataset.sha256
        known = self.repository.find(endpoint, sha256)
        if known is not None and known.expires_at - self.clock() > MIN_SECONDS_LEFT:
            return known
        started = _send(lambda: self.uploads.start(filename=self.filename, size=self.dataset.bytes), time.sleep)
        part_bytes = self.provider.profile.part_bytes
        expires_at = float(started.expires_at or self.clock() + DEFAULT_LIFETIME_SECONDS)
        self.repository.start(endpoint, sha256, upload_id=started.id, part_bytes=part_bytes, expires_at=expires_at)
        return OpenUpload(upload_id=started.id, part_bytes=part_bytes, expires_at=expires_at, parts={})

    def _forget(self) -> None:
        self.repository.delete(self.provider.endpoint, self.dataset.sha256)

    def _send_parts(self, upload: OpenUpload) -> tuple[list[str], str]:
        """Send what is missing; returns the part ids in order and the MD5 of the whole."""
        whole, whole_md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        ids: dict[int, str] = {}
        pending: dict[Future[str], tuple[int, int, str]] = {}
        done = 0
        stop = threading.Event()

        def settle(futures: set[Future[str]]) -> None:
            nonlocal done
            for future in futures:
                number, size, digest = pending.pop(future)
                ids[number] = future.result()
                self.repository.add_part(upload.upload_id, number=number, part_id=ids[number], sha256=digest)
                done += size
                self.on_progress(done, self.dataset.bytes)

        with self.dataset.path.open("rb") as source:
            try:
                for number, data in enumerate(_read_parts(source, upload.part_bytes)):
                    whole.update(data)
                    whole_md5.update(data)
                    digest = hashlib.sha256(data).hexdigest()
                    known = upload.parts.get(number)
                    if known and known[1] == digest:
                        ids[number] = known[0]
                        done += len(data)
                        self.on_progress(done, self.dataset.bytes)
                        continue
                    if len(pending) >= MAX_PARALLEL_PARTS:
                        settle(wait(pending, return_when=FIRST_COMPLETED).done)
                    pending[self._send_in_background(upload.upload_id, data, stop)] = (number, len(data), digest)
                settle(wait(pending).done)
            except BaseException as exc:
                stop.set()
                if isinstance(exc, Exception):  # after Ctrl-C nothing is waited for
                    wait(pending, timeout=DRAIN_SECONDS)
                settle({future for future in pending if future.done() and future.exception() is None})
                raise
        if whole.hexdigest() != self.dataset.sha256:
            raise DatasetError(
                f"{self.dataset.path} changed while it was uploaded", "run `ftpipe train` again; nothing was paid"
            )
        return [ids[number] for number in sorted(ids)], whole_md5.hexdigest()

    def _send_in_background(self, upload_id: str, data: bytes, stop: threading.Event) -> Future[str]:
        """Send one part in a thread that does not delay the end of the program."""
        future: Future[str] = Future()

        def sleep(seconds: float) -> None:
            if stop.wait(seconds):
                raise ConnectionFailedError("another part failed")

        def work() -> None:
            try:
                future.set_result(_send(lambda: self.uploads.add_part(upload_id, data), sleep))
            except BaseException as exc:  # noqa: BLE001 - future.result() raises it again
                future.set_exception(exc)

        threading.Thread(target=work, daemon=True, name="ftpipe-part").start()
        return future

    def _complete(self, upload: OpenUpload, part_ids: list[str], md5: str) -> RemoteFile:
        files, size = self.provider.files, self.dataset.bytes
        try:
            file = self.uploads.complete(upload.upload_id, part_ids, md5=md5).file
        except (ResponseLostError, *UPLOAD_GONE_ERRORS):
            # also refused if an earlier call completed the upload and its response was lost
            file = next(iter(files.find(filename=self.filename, size=size)), None)
            if file is None:
                raise
        if file is None:
            raise InvalidResponseError(
                "the upload is complete, but the endpoint names no file", "run `ftpipe resume` to search for it again"
            )
        if file.bytes and file.bytes != size:
            raise InvalidResponseError(
                f"the endpoint assembled {file.bytes:,} bytes of {size:,}", "run `ftpipe resume`; nothing was paid"
            )
        return file


def _read_parts(source: BinaryIO, size: int) -> Iterator[bytes]:
    while data := source.read(size):
        yield data


def _send(call: Callable[[], T], sleep: Callable[[float], None]) -> T:
    """Make a call that is not paid, again after transient errors."""
    try:
        return retry(call, retry_on=_may_repeat, attempts=MAX_ATTEMPTS, first_wait=0.5, max_wait=10, sleep=sleep)
    except (ResponseLostError, ConnectionFailedError) as exc:
        raise ConnectionFailedError(
            f"the upload stopped: {exc.message}",
            "run `ftpipe resume` to continue with the parts that arrived; nothing was paid",
        ) from exc


def _may_repeat(exc: BaseException) -> bool:
    """Whether a part may be sent again: also if its response was lost, since a second copy of a part does no harm."""
    if type(exc) is ProviderError:
        return False
    return is_transient(exc) or isinstance(exc, ResponseLostError)
