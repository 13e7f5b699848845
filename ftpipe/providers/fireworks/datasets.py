"""Datasets of Fireworks, used as the files of the interface: the id of a dataset is made of its content's name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import openai

from ftpipe.errors import InvalidResponseError, LocalStateError, NotFoundError, RequestRefusedError
from ftpipe.providers.files import MIME, CountingFile, upload_timeout
from ftpipe.providers.fireworks.api import RESOURCE_ID, FireworksApi, id_of
from ftpipe.providers.fireworks.responses import unix_seconds
from ftpipe.providers.responses import RemoteFile
from ftpipe.providers.signed_urls import get_bytes, put_bytes, require_signed_url

MAX_DIRECT_BYTES = 150_000_000
"""Larger files go to a signed URL. Source: fireworks-ai 1.2.30, lib/dataset_upload.py, 2026-11-28."""
FORMAT = "CHAT"
READY, UPLOADING = "READY", "UPLOADING"
STATUSES = {READY: "processed", UPLOADING: "processing"}
PURPOSE = "fine-tune"


class FireworksFiles:
    """The datasets of an account."""

    def __init__(self, fireworks: FireworksApi) -> None:
        self._fireworks = fireworks
        self._api = fireworks.api

    def upload(self, path: Path, *, filename: str, on_bytes: Callable[[int], None]) -> RemoteFile:
        """Send a whole file as a dataset; a dataset of that id that has its bytes already is used as it is.

        Creating, sending and validating are each safe to repeat, because the id names the content.
        """
        dataset_id = dataset_id_of(filename)
        try:
            size, examples = path.stat().st_size, _count_lines(path)
        except OSError as exc:
            raise LocalStateError(
                f"cannot read {path}: {exc.strerror}", "restore the file, then run `ftpipe resume`"
            ) from exc
        fields = self._create(dataset_id, filename, examples)
        if fields.get("state") != READY:
            self._send(dataset_id, path, size, on_bytes)
        return self.get(dataset_id).model_copy(update={"bytes": size})

    def _create(self, dataset_id: str, filename: str, examples: int) -> dict[str, Any]:
        """The dataset, created unless it exists."""
        collection, name = self._collection, self._name(dataset_id)
        body = {
            "datasetId": dataset_id,
            "dataset": {
                "displayName": filename[:63],
                "exampleCount": str(examples),
                "format": FORMAT,
                "userUploaded": {},
            },
        }

        def call(client: openai.OpenAI) -> dict[str, Any]:
            try:
                return self._fireworks.post(client, collection, body)
            except openai.ConflictError:
                return self._fireworks.get(client, name)

        return self._api.read(f"create dataset {dataset_id}", call, dict)

    def _send(self, dataset_id: str, path: Path, size: int, on_bytes: Callable[[int], None]) -> None:
        name = self._name(dataset_id)
        if size <= MAX_DIRECT_BYTES:
            with CountingFile(path, on_bytes) as source:
                self._api.write(
                    f"upload {path.name}",
                    lambda client: client.post(
                        self._fireworks.url(f"{name}:upload"),
                        cast_to=object,
                        files=[("file", (f"{dataset_id}.jsonl", source, MIME))],
                        options={"headers": {"Content-Type": "multipart/form-data"}},
                    ),
                    lambda _response: None,
                    seconds=upload_timeout(self._api.profile, size),
                )
            return
        url = self._upload_url(dataset_id, size)
        with CountingFile(path, on_bytes) as source:
            self._api.write(
                f"upload {path.name}",
                lambda _client: put_bytes(url, source, size, headers=signed_headers(url, size)),
                lambda _headers: None,
                seconds=upload_timeout(self._api.profile, size),
            )
        # only after the bytes are there: validating an empty dataset leaves it unusable. Source: public run logs, 2025
        self._api.read(
            f"validate dataset {dataset_id}",
            lambda client: self._fireworks.post(client, f"{name}:validateUpload", {}),
            dict,
        )

    def _upload_url(self, dataset_id: str, size: int) -> str:
        name, filename = self._name(dataset_id), f"{dataset_id}.jsonl"
        fields = self._api.read(
            f"get an upload URL for dataset {dataset_id}",
            lambda client: self._fireworks.post(
                client, f"{name}:getUploadEndpoint", {"filenameToSize": {filename: str(size)}}
            ),
            dict,
        )
        return require_signed_url(_signed_urls(fields).get(filename, ""), api_url=self._api.base_url)

    def find(self, *, filename: str, size: int) -> list[RemoteFile]:
        """The dataset of that content name, if its bytes are there; one that waits for them is sent again."""
        if not filename:
            collection = self._collection
            self._api.read(
                "list the datasets", lambda client: self._fireworks.get(client, collection, pageSize=1), dict
            )
            return []
        try:
            file = self.get(dataset_id_of(filename))
        except NotFoundError:
            return []
        return [file.model_copy(update={"bytes": size})] if file.status == STATUSES[READY] else []

    def all(self) -> list[RemoteFile]:
        """The datasets of the account, newest first."""
        collection = self._collection
        listed = self._api.read(
            "list the datasets",
            lambda client: self._fireworks.list(client, collection),
            lambda items: [file_of(fields) for fields in items],
        )
        return sorted(listed, key=lambda file: -file.created_at)

    def get(self, file_id: str) -> RemoteFile:
        """Get one dataset by its id or full name."""
        name = self._name(file_id)
        return file_of(self._api.read(f"get dataset {file_id}", lambda client: self._fireworks.get(client, name), dict))

    def content(self, file_id: str) -> bytes:
        """Download a whole dataset from its signed URL."""
        name = self._name(file_id)
        fields = self._api.read(
            f"get a download URL for dataset {file_id}",
            lambda client: self._fireworks.get(client, f"{name}:getDownloadEndpoint"),
            dict,
        )
        urls = [require_signed_url(url, api_url=self._api.base_url) for url in _signed_urls(fields).values()]
        if len(urls) != 1:
            raise RequestRefusedError(
                f"dataset {file_id} has {len(urls)} files, not one", "download it in the dashboard"
            )
        return self._api.read(
            f"download dataset {file_id}",
            lambda _client: get_bytes(urls[0], max_bytes=self._api.profile.max_file_bytes),
            bytes,
        )

    def delete(self, file_id: str) -> None:
        """Delete a dataset."""
        name = self._name(file_id)
        self._api.call_once(
            f"delete dataset {file_id}",
            lambda client: self._fireworks.delete(client, name),
            lambda _nothing: None,
        )

    @property
    def _collection(self) -> str:
        return f"{self._fireworks.parent}/datasets"

    def _name(self, file_id: str) -> str:
        """The full name of a dataset."""
        return dataset_name(file_id, self._fireworks.parent)


def dataset_id_of(filename: str) -> str:
    """The id of the dataset with a content name: ``ftpipe-<digest>.jsonl`` without its ending."""
    text = re.sub(r"[^a-z0-9-]+", "-", filename.removesuffix(".jsonl").lower())[:63].strip("-")
    return text if RESOURCE_ID.fullmatch(text) else f"d-{text}"[:63]


def dataset_name(file_id: str, parent: str) -> str:
    """The full name for an id of the own account, or a full name as it is.

    Raises:
        NotFoundError: It is neither.
    """
    parts = file_id.split("/")
    if len(parts) == 4 and parts[0] == "accounts" and parts[2] == "datasets":
        owner, dataset_id = parts[1], parts[3]
    else:
        owner, dataset_id = parent.removeprefix("accounts/"), file_id
    if not RESOURCE_ID.fullmatch(owner) or not RESOURCE_ID.fullmatch(dataset_id):
        raise NotFoundError(
            f"{file_id[:200]!r} is not the id of a dataset of Fireworks", "check the name in the dashboard"
        )
    return f"accounts/{owner}/datasets/{dataset_id}"


def file_of(fields: Mapping[str, Any]) -> RemoteFile:
    """A dataset as a file."""
    dataset_id = id_of(fields.get("name"), what="dataset")
    state, status = str(fields.get("state") or ""), fields.get("status")
    details = str(status.get("message") or "") if isinstance(status, Mapping) else ""
    is_broken = isinstance(status, Mapping) and status.get("code") not in (None, "", "OK", 0)
    return RemoteFile(
        id=dataset_id,
        bytes=0,
        filename=str(fields.get("displayName") or f"{dataset_id}.jsonl"),
        purpose=PURPOSE,
        status="error" if is_broken and state != READY else STATUSES.get(state, state.lower()),
        status_details=details,
        created_at=unix_seconds(fields.get("createTime")) or 0,
    )


def _signed_urls(fields: Mapping[str, Any]) -> dict[str, str]:
    urls = fields.get("filenameToSignedUrls")
    if not isinstance(urls, Mapping) or not all(isinstance(url, str) for url in urls.values()):
        raise InvalidResponseError("the response has no signed URLs")
    return {str(name): str(url) for name, url in urls.items()}


def signed_headers(url: str, size: int) -> dict[str, str]:
    """The headers that the signature of an upload URL covers. Source: public run logs, 2025."""
    names = parse_qs(urlsplit(url).query).get("X-Goog-SignedHeaders", [""])[0].lower().split(";")
    headers = {"content-type": "application/octet-stream", "x-goog-content-length-range": f"{size},{size}"}
    return {name: value for name, value in headers.items() if name in names}


def _count_lines(path: Path) -> int:
    with path.open("rb") as source:
        return sum(1 for line in source if line.strip())
