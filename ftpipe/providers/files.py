"""``/files`` and ``/uploads`` of an endpoint with the OpenAI API."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import openai

from ftpipe.errors import LocalStateError
from ftpipe.providers.client import ApiClient
from ftpipe.providers.profiles import Profile
from ftpipe.providers.responses import RemoteFile, RemoteUpload, as_dict, checked_id, file_of, upload_of

PURPOSE: Literal["fine-tune"] = "fine-tune"
MIME = "application/jsonl"
MIN_BYTES_PER_SECOND = 20_000
"""A slower upload is stopped."""


class CountingFile(io.FileIO):
    """A file that reports how many of its bytes have been read."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None]) -> None:
        super().__init__(path, "rb")
        self._on_bytes = on_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, and report the position."""
        data = super().read(-1 if size is None else size) or b""
        self._on_bytes(self.tell())
        return data


class FilesClient:
    """The files of an endpoint."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    def upload(self, path: Path, *, filename: str, on_bytes: Callable[[int], None]) -> RemoteFile:
        """Send a whole file in one request."""
        try:
            size = path.stat().st_size
            source = CountingFile(path, on_bytes)
        except OSError as exc:
            raise LocalStateError(
                f"cannot read {path}: {exc.strerror}", "restore the file, then run `ftpipe resume`"
            ) from exc
        with source:
            return self._api.write(
                f"upload {path.name}",
                lambda client: client.files.create(file=(filename, source, MIME), purpose=PURPOSE),
                file_of,
                seconds=upload_timeout(self._api.profile, size),
            )

    def find(self, *, filename: str, size: int) -> list[RemoteFile]:
        """Files of that name and size, oldest first."""
        same = [file for file in self._list(PURPOSE) if file.filename == filename and file.bytes == size]
        return sorted(same, key=lambda file: file.created_at)

    def all(self) -> list[RemoteFile]:
        """The files of every purpose that the key can see, newest first."""
        return self._list()

    def _list(self, purpose: str = "") -> list[RemoteFile]:
        def call(client: openai.OpenAI) -> list[RemoteFile]:
            files = client.files
            page = (
                files.list(purpose=purpose, order="desc", limit=10_000)
                if purpose
                else files.list(order="desc", limit=10_000)
            )
            return [file_of(item) for item in self._api.iter_items(page)]

        return self._api.read("list the files", call, list)

    def get(self, file_id: str) -> RemoteFile:
        """Get one file."""
        return self._api.read(f"get file {file_id}", lambda client: client.files.retrieve(file_id), file_of)

    def content(self, file_id: str) -> bytes:
        """Download a whole file."""
        return self._api.read(f"download file {file_id}", lambda client: client.files.content(file_id).read(), bytes)

    def delete(self, file_id: str) -> None:
        """Delete a file."""
        self._api.call_once(f"delete file {file_id}", lambda client: client.files.delete(file_id), as_dict)


class UploadsClient:
    """The uploads in parts of an endpoint."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    def start(self, *, filename: str, size: int) -> RemoteUpload:
        """Start an upload in parts."""
        return self._api.write(
            f"start the upload of {filename}",
            lambda client: client.uploads.create(filename=filename, bytes=size, purpose=PURPOSE, mime_type=MIME),
            upload_of,
        )

    def add_part(self, upload_id: str, data: bytes) -> str:
        """Send one part; returns its id."""
        return self._api.write(
            "upload a part",
            lambda client: client.uploads.parts.create(upload_id, data=("part", data, "application/octet-stream")),
            lambda response: checked_id(as_dict(response), "part"),
            seconds=upload_timeout(self._api.profile, len(data)),
        )

    def complete(self, upload_id: str, part_ids: Iterable[str], *, md5: str) -> RemoteUpload:
        """Assemble the parts in the given order; ``md5`` is the hexadecimal digest of the whole."""
        ids = list(part_ids)
        return self._api.write(
            "assemble the parts",
            lambda client: client.uploads.complete(upload_id, part_ids=ids, md5=md5),
            upload_of,
            seconds=600,
        )

    def cancel(self, upload_id: str) -> None:
        """Cancel an upload in parts."""
        self._api.call_once("cancel the upload", lambda client: client.uploads.cancel(upload_id), upload_of)


def upload_timeout(profile: Profile, size: int) -> float:
    """Seconds after which an upload of so many bytes is stopped."""
    return max(profile.request_timeout_seconds, size / MIN_BYTES_PER_SECOND)
