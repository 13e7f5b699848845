"""Upload in parts: several at a time, in constant memory, and going on where a crash left it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import BinaryIO

from ftpipe.errors import (
    AnswerLostError,
    BadAnswerError,
    ConnectionFailedError,
    DatasetError,
    FtpipeError,
    ProviderError,
)
from ftpipe.providers.base import Provider, RemoteFile
from ftpipe.records import Dataset
from ftpipe.registry.uploads import OpenUpload
from ftpipe.stages.memory import PartMemory

AT_ONCE = 3
"""Parts in flight; each holds one part in memory."""
TRIES = 5
"""How often one part is sent; a part that arrived twice costs nothing, its second id is used."""
MARGIN_SECONDS = 120.0
"""An upload this close to its end is not gone on with. Source: uploads expire after an hour, API description."""


def upload_in_parts(
    dataset: Dataset,
    *,
    filename: str,
    provider: Provider,
    memory: PartMemory,
    on_progress: Callable[[int, int], None],
    clock: Callable[[], float],
) -> RemoteFile:
    """Send a large dataset through the Uploads API.

    Raises:
        DatasetError: The file changed while it was read.
        ProviderError: The endpoint cannot be reached or says no; `ftpipe resume` goes on with the parts that arrived.
    """
    upload = _begin_or_go_on(dataset, filename, provider, memory, clock)
    try:
        part_ids, md5 = _send_parts(dataset, upload, provider, memory, on_progress)
    except DatasetError:
        provider.files.cancel_upload(upload.upload_id)
        memory.drop(provider.endpoint, dataset.sha256)
        raise
    file = _complete(dataset, filename, upload, part_ids, md5, provider)
    memory.drop(provider.endpoint, dataset.sha256)
    return file


def _begin_or_go_on(
    dataset: Dataset, filename: str, provider: Provider, memory: PartMemory, clock: Callable[[], float]
) -> OpenUpload:
    known = memory.find(provider.endpoint, dataset.sha256)
    if known is not None and known.expires_at - clock() > MARGIN_SECONDS:
        return known
    begun = provider.files.start_upload(filename=filename, size=dataset.bytes)
    part_bytes = provider.profile.part_bytes
    expires_at = float(begun.expires_at or clock() + 3600)
    memory.begin(provider.endpoint, dataset.sha256, upload_id=begun.id, part_bytes=part_bytes, expires_at=expires_at)
    return OpenUpload(upload_id=begun.id, part_bytes=part_bytes, expires_at=expires_at, parts={})


def _send_parts(
    dataset: Dataset,
    upload: OpenUpload,
    provider: Provider,
    memory: PartMemory,
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

    with dataset.path.open("rb") as source, ThreadPoolExecutor(AT_ONCE, thread_name_prefix="ftpipe-part") as pool:
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
                if len(pending) >= AT_ONCE:
                    settle(wait(pending, return_when=FIRST_COMPLETED).done)
                pending[pool.submit(_send_part, provider, upload.upload_id, data, stop)] = (number, len(data), digest)
            settle(wait(pending).done)
        except BaseException:
            stop.set()
            raise
    if whole.hexdigest() != dataset.sha256:
        raise DatasetError(
            f"{dataset.path} changed while it was uploaded", "run `ftpipe train` again; nothing was paid"
        )
    return [ids[number] for number in sorted(ids)], whole_md5.hexdigest()


def _pieces(source: BinaryIO, size: int) -> Iterator[bytes]:
    while data := source.read(size):
        yield data


def _send_part(provider: Provider, upload_id: str, data: bytes, stop: threading.Event) -> str:
    """Send one part, again after passing faults: a part is not paid, and only the ids that are named count."""
    for attempt in range(TRIES):
        try:
            return provider.files.add_part(upload_id, data)
        except (AnswerLostError, ConnectionFailedError) as exc:
            if attempt == TRIES - 1 or stop.wait(min(0.5 * 2**attempt, 10)):
                raise _kept(exc) from exc
    raise ProviderError("a part could not be sent", "`ftpipe resume` goes on with the parts that arrived")


def _kept(exc: FtpipeError) -> ProviderError:
    return ConnectionFailedError(
        f"the upload stopped: {exc.message}", "`ftpipe resume` goes on with the parts that arrived; nothing was paid"
    )


def _complete(
    dataset: Dataset, filename: str, upload: OpenUpload, part_ids: list[str], md5: str, provider: Provider
) -> RemoteFile:
    try:
        answer = provider.files.complete_upload(upload.upload_id, part_ids, md5=md5)
        file = answer.file
    except AnswerLostError:
        file = next(iter(provider.files.find(filename=filename, size=dataset.bytes)), None)
        if file is None:
            raise
    if file is None:
        raise BadAnswerError(
            "the upload is complete, but the endpoint names no file", "`ftpipe resume` looks for it again"
        )
    if file.bytes and file.bytes != dataset.bytes:
        raise BadAnswerError(
            f"the endpoint put together {file.bytes:,} bytes of {dataset.bytes:,}",
            "run `ftpipe resume`; nothing was paid",
        )
    return file
