"""Upload in parts: several at a time, in constant memory, and going on where a crash left it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import BinaryIO, TypeVar

from ftpipe.errors import (
    ConnectionFailedError,
    DatasetError,
    FtpipeError,
    InvalidResponseError,
    NotFoundError,
    ProviderError,
    RequestRefusedError,
    ResponseLostError,
)
from ftpipe.providers.provider import Provider
from ftpipe.providers.responses import RemoteFile
from ftpipe.providers.retry import is_transient, retry
from ftpipe.records import Dataset
from ftpipe.registry.files import OpenUpload
from ftpipe.stages.ports import UploadPartStore

T = TypeVar("T")

MAX_PARALLEL_PARTS = 3
"""Parts in flight; each holds one part in memory."""
DRAIN_SECONDS = 2.0
"""How long the parts that are under way are waited for when another one has failed: what arrives is not sent again."""
MAX_ATTEMPTS = 5
"""How often one part is sent; a part that arrived twice costs nothing, its second id is used."""
MARGIN_SECONDS = 120.0
"""An upload this close to its end is not gone on with. Source: uploads expire after an hour, API description."""
UPLOAD_GONE_ERRORS = (NotFoundError, RequestRefusedError)
"""What an endpoint says about an upload that has expired or was dropped there, whatever our clock thinks."""


def upload_in_parts(
    dataset: Dataset,
    *,
    filename: str,
    provider: Provider,
    memory: UploadPartStore,
    on_progress: Callable[[int, int], None],
    clock: Callable[[], float],
) -> RemoteFile:
    """Send a large dataset through the Uploads API.

    Raises:
        DatasetError: The file changed while it was read.
        ProviderError: The endpoint cannot be reached or says no; `ftpipe resume` goes on with the parts that arrived.
    """
    for is_last in (False, True):
        upload = _begin_or_go_on(dataset, filename, provider, memory, clock)
        try:
            part_ids, md5 = _send_parts(dataset, upload, provider, memory, on_progress)
            file = _complete(dataset, filename, upload, part_ids, md5, provider)
        except DatasetError:
            provider.files.cancel_upload(upload.upload_id)
            memory.drop(provider.endpoint, dataset.sha256)
            raise
        except UPLOAD_GONE_ERRORS:
            memory.drop(provider.endpoint, dataset.sha256)
            if is_last:
                raise
        else:
            memory.drop(provider.endpoint, dataset.sha256)
            return file
    raise ResponseLostError(f"{dataset.path} could not be uploaded", "`ftpipe resume` tries again; nothing was paid")


def _begin_or_go_on(
    dataset: Dataset, filename: str, provider: Provider, memory: UploadPartStore, clock: Callable[[], float]
) -> OpenUpload:
    known = memory.find(provider.endpoint, dataset.sha256)
    if known is not None and known.expires_at - clock() > MARGIN_SECONDS:
        return known
    begun = _send(lambda: provider.files.start_upload(filename=filename, size=dataset.bytes), time.sleep)
    part_bytes = provider.profile.part_bytes
    expires_at = float(begun.expires_at or clock() + 3600)
    memory.begin(provider.endpoint, dataset.sha256, upload_id=begun.id, part_bytes=part_bytes, expires_at=expires_at)
    return OpenUpload(upload_id=begun.id, part_bytes=part_bytes, expires_at=expires_at, parts={})


def _send_parts(
    dataset: Dataset,
    upload: OpenUpload,
    provider: Provider,
    memory: UploadPartStore,
    on_progress: Callable[[int, int], None],
) -> tuple[list[str], str]:
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
            memory.add(upload.upload_id, number=number, part_id=ids[number], sha256=digest)
            done += size
            on_progress(done, dataset.bytes)

    with dataset.path.open("rb") as source:
        try:
            for number, data in enumerate(_pieces(source, upload.part_bytes)):
                whole.update(data)
                whole_md5.update(data)
                digest = hashlib.sha256(data).hexdigest()
                known = upload.parts.get(number)
                if known and known[1] == digest:
                    ids[number] = known[0]
                    done += len(data)
                    on_progress(done, dataset.bytes)
                    continue
                if len(pending) >= MAX_PARALLEL_PARTS:
                    settle(wait(pending, return_when=FIRST_COMPLETED).done)
                sending = _in_background(provider, upload.upload_id, data, stop)
                pending[sending] = (number, len(data), digest)
            settle(wait(pending).done)
        except BaseException as exc:
            stop.set()
            if isinstance(exc, Exception):  # whoever interrupts does not wait
                wait(pending, timeout=DRAIN_SECONDS)
            settle({one for one in pending if one.done() and one.exception() is None})
            raise
    if whole.hexdigest() != dataset.sha256:
        raise DatasetError(
            f"{dataset.path} changed while it was uploaded", "run `ftpipe train` again; nothing was paid"
        )
    return [ids[number] for number in sorted(ids)], whole_md5.hexdigest()


def _pieces(source: BinaryIO, size: int) -> Iterator[bytes]:
    while data := source.read(size):
        yield data


def _in_background(provider: Provider, upload_id: str, data: bytes, stop: threading.Event) -> Future[str]:
    """Send one part in a thread that does not hold up the end of the program."""
    future: Future[str] = Future()

    def sleep(seconds: float) -> None:
        if stop.wait(seconds):
            raise ConnectionFailedError("another part failed")

    def work() -> None:
        try:
            future.set_result(_send(lambda: provider.files.add_part(upload_id, data), sleep))
        except BaseException as exc:  # noqa: BLE001 - it is raised again by future.result()
            future.set_exception(exc)

    threading.Thread(target=work, daemon=True, name="ftpipe-part").start()
    return future


def _send(call: Callable[[], T], sleep: Callable[[float], None]) -> T:
    """Make a call that is not paid, again after transient errors: only the ids that are named later count."""
    try:
        return retry(call, retry_on=_may_repeat, attempts=MAX_ATTEMPTS, first_wait=0.5, max_wait=10, sleep=sleep)
    except (ResponseLostError, ConnectionFailedError) as exc:
        raise _kept(exc) from exc


def _may_repeat(exc: BaseException) -> bool:
    """Whether a part may be sent again: also if its response was lost, since a second copy of a part does no harm."""
    if type(exc) is ProviderError:
        return False
    return is_transient(exc) or isinstance(exc, ResponseLostError)


def _kept(exc: FtpipeError) -> ConnectionFailedError:
    return ConnectionFailedError(
        f"the upload stopped: {exc.message}", "`ftpipe resume` goes on with the parts that arrived; nothing was paid"
    )


def _complete(
    dataset: Dataset, filename: str, upload: OpenUpload, part_ids: list[str], md5: str, provider: Provider
) -> RemoteFile:
    try:
        answer = provider.files.complete_upload(upload.upload_id, part_ids, md5=md5)
        file = answer.file
    except (
        ResponseLostError,
        *UPLOAD_GONE_ERRORS,
    ):  # also refused where an earlier call completed it, whose answer was lost
        file = next(iter(provider.files.find(filename=filename, size=dataset.bytes)), None)
        if file is None:
            raise
    if file is None:
        raise InvalidResponseError(
            "the upload is complete, but the endpoint names no file", "`ftpipe resume` looks for it again"
        )
    if file.bytes and file.bytes != dataset.bytes:
        raise InvalidResponseError(
            f"the endpoint put together {file.bytes:,} bytes of {dataset.bytes:,}",
            "run `ftpipe resume`; nothing was paid",
        )
    return file
