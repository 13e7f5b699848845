"""Reads what an account holds at an endpoint with the OpenAI API, as the endpoint describes it, with GET alone."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
from pydantic import BaseModel

from ftpipe.errors import InvalidResponseError, LocalStateError
from ftpipe.providers.client import ApiClient
from ftpipe.providers.files import MIN_BYTES_PER_SECOND
from ftpipe.providers.responses import as_dict, job_of
from ftpipe.records import Job

CHUNK_BYTES = 1 << 20
MAX_DOWNLOAD_SECONDS = 6 * 3600.0


@dataclass(frozen=True)
class DownloadedFile:
    """The content of a file, on this machine's disk."""

    path: Path
    sha256: str
    bytes: int


class AccountReader:
    """The jobs, files and models of an account, with every field that the endpoint gives."""

    def __init__(self, api: ApiClient, *, endpoint: str) -> None:
        self._api = api
        self._endpoint = endpoint

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, in the order of the endpoint."""
        return self._list("list the jobs", lambda client: client.fine_tuning.jobs.list(limit=100))

    def job(self, job_id: str) -> dict[str, Any]:
        """One job; ``as_job`` makes a record of it."""
        return self._api.read(f"get job {job_id}", lambda client: client.fine_tuning.jobs.retrieve(job_id), described)

    def as_job(self, description: Mapping[str, Any]) -> Job:
        """The record of a job that the endpoint described."""
        return job_of(description, endpoint=self._endpoint, provider=self._api.profile.name)

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """All events of a job."""
        what = f"list the events of job {job_id}"
        return self._list(what, lambda client: client.fine_tuning.jobs.list_events(job_id, limit=100))

    def checkpoints(self, job_id: str) -> list[dict[str, Any]]:
        """All checkpoints of a job."""
        what = f"list the checkpoints of job {job_id}"
        return self._list(what, lambda client: client.fine_tuning.jobs.checkpoints.list(job_id, limit=100))

    def models(self) -> list[dict[str, Any]]:
        """All models that the key can use."""
        return self._list("list the models", lambda client: client.models.list())

    def model(self, model: str) -> dict[str, Any]:
        """One model."""
        return self._api.read(f"get model {model}", lambda client: client.models.retrieve(model), described)

    def file(self, file_id: str) -> dict[str, Any]:
        """One file, without its content."""
        return self._api.read(f"get file {file_id}", lambda client: client.files.retrieve(file_id), described)

    def download(self, file_id: str, folder: Path, *, max_bytes: int) -> DownloadedFile:
        """Download the content of a file of any size into a new file of a folder, whose name is random.

        Each attempt writes a file of its own, since one that has run out of time may still be writing.

        Args:
            file_id: Which file.
            folder: Where to.
            max_bytes: A larger content is refused.

        Raises:
            InvalidResponseError: The endpoint sends more than ``max_bytes``.
            LocalStateError: The folder cannot be written, or the disk is full.
        """

        def call(client: openai.OpenAI) -> DownloadedFile:
            path = folder / secrets.token_hex(16)
            try:
                with client.files.with_streaming_response.content(file_id) as response:
                    return _write_chunks(response.iter_bytes(CHUNK_BYTES), path, max_bytes)
            except BaseException:
                path.unlink(missing_ok=True)
                raise

        slowest = min(max_bytes / MIN_BYTES_PER_SECOND, MAX_DOWNLOAD_SECONDS)
        seconds = max(self._api.profile.request_timeout_seconds, slowest)
        return self._api.read(f"download file {file_id}", call, _as_is, seconds=seconds)

    def _list(self, what: str, call: Callable[[openai.OpenAI], Any]) -> list[dict[str, Any]]:
        return self._api.read(what, lambda client: list(map(described, self._api.iter_items(call(client)))), list)


def described(response: object) -> dict[str, Any]:
    """The fields that an endpoint has sent, without those that the SDK adds."""
    return as_dict(
        response.model_dump(exclude_unset=True, warnings=False) if isinstance(response, BaseModel) else response
    )


def _as_is(downloaded: DownloadedFile) -> DownloadedFile:
    return downloaded


def _write_chunks(chunks: Iterable[bytes], path: Path, max_bytes: int) -> DownloadedFile:
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("xb") as file:
            for chunk in chunks:
                size += len(chunk)
                if size > max_bytes:
                    raise InvalidResponseError(
                        f"the endpoint sends more than {max_bytes:,} bytes, more than it says that the file has",
                        "ask the provider about this file",
                    )
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        raise LocalStateError(
            f"cannot write to {path.parent}: {exc.strerror or exc}",
            "check the folder and the free disk space, then run the same command again",
        ) from exc
    return DownloadedFile(path=path, sha256=digest.hexdigest(), bytes=size)
