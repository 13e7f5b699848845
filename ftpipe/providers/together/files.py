"""``/v1/files``: the bytes go to a presigned address, in parts above 5 GiB, and are then checked by the host.

Source: ``together`` 3.1.1, ``lib/resources/files.py`` (the published description has only the one-shot upload).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import openai

from ftpipe.errors import (
    ConnectionFailedError,
    FtpipeError,
    InvalidResponseError,
    LocalStateError,
    NotFoundError,
    RequestRefusedError,
    ResponseLostError,
)
from ftpipe.file_hash import sha256_of_file
from ftpipe.providers.client import ApiClient
from ftpipe.providers.files import PURPOSE, CountingFile, upload_timeout
from ftpipe.providers.responses import RemoteFile, as_dict, checked_id, text
from ftpipe.providers.rest import request_json, send, send_form
from ftpipe.providers.retry import is_transient, retry
from ftpipe.providers.signed_urls import put_bytes, require_signed_url
from ftpipe.providers.together.responses import UNPROCESSED, file_of, items_of

T = TypeVar("T")

MULTIPART_ABOVE_BYTES = 5 * 1024**3
PART_BYTES = 250 * 1024**2
MAX_PARTS = 250
"""Source: ``together`` 3.1.1, ``lib/constants.py``: parts of 5 to 250 MB, at most 250 of them."""
MAX_PART_ATTEMPTS = 5
"""How often one part is sent; sending it twice does no harm, since it has a number."""


class TogetherFiles:
    """The files of Together."""

    def __init__(
        self, api: ApiClient, *, multipart_above_bytes: int = MULTIPART_ABOVE_BYTES, part_bytes: int = PART_BYTES
    ) -> None:
        self._api = api
        self._multipart_above_bytes = multipart_above_bytes
        self._part_bytes = part_bytes

    def upload(self, path: Path, *, filename: str, on_bytes: Callable[[int], None]) -> RemoteFile:
        """Send a whole file; the same bytes as before are not sent again."""
        try:
            size = path.stat().st_size
            checksum = sha256_of_file(path)
            source = CountingFile(path, on_bytes)
        except OSError as exc:
            raise LocalStateError(
                f"cannot read {path}: {exc.strerror}", "restore the file, then run `ftpipe resume`"
            ) from exc
        fields = {"purpose": PURPOSE, "file_name": filename, "file_type": "jsonl", "checksum": checksum}
        send_file = self._upload_in_parts if size > self._multipart_above_bytes else self._upload_whole
        with source:
            for _ in range(2):  # the second time if an earlier upload of the same bytes was never completed
                if (file := send_file(source, size, fields)) is not None:
                    return file
        raise RequestRefusedError(
            f"the host lists the bytes of {path.name} and does not have them",
            "delete the file in the host's console, then run `ftpipe resume`",
        )

    def find(self, *, filename: str, size: int) -> list[RemoteFile]:
        """Files of that name and size, oldest first."""
        listed = self.all()
        # of a file whose check was never started the bytes may be missing: `upload` finds out
        same = [
            file for file in listed if (file.filename, file.bytes) == (filename, size) and file.status != UNPROCESSED
        ]
        return sorted(same, key=lambda file: file.created_at)

    def all(self) -> list[RemoteFile]:
        """The files of every purpose that the key can see, newest first."""
        listed = self._api.read(
            "list the files",
            lambda client: request_json(client, "GET", "/v1/files"),
            lambda response: [file_of(item) for item in items_of(response)],
        )
        return sorted(listed, key=lambda file: -file.created_at)

    def get(self, file_id: str) -> RemoteFile:
        """Get one file."""
        return self._api.read(
            f"get file {file_id}", lambda client: request_json(client, "GET", f"/v1/files/{file_id}"), file_of
        )

    def content(self, file_id: str) -> bytes:
        """Download a whole file."""
        return self._api.read(
            f"download file {file_id}",
            lambda client: send(client, "GET", f"/v1/files/{file_id}/content").content,
            bytes,
        )

    def delete(self, file_id: str) -> None:
        """Delete a file."""
        self._api.call_once(
            f"delete file {file_id}",
            lambda client: request_json(client, "DELETE", f"/v1/files/{file_id}"),
            as_dict,
        )

    def _upload_whole(self, source: BinaryIO, size: int, fields: dict[str, str]) -> RemoteFile | None:
        name = fields["file_name"]
        status, headers, body = self._api.write(
            f"get an upload address for {name}",
            lambda client: _answer_of(lambda: send_form(client, "/v1/files", fields)),
            lambda answer: answer,
        )
        if status == 409:
            return self._reuse(body)
        if status != 302:
            raise InvalidResponseError(f"the host named no upload address (HTTP {status})")
        file_id = checked_id({"id": headers.get("x-together-file-id")}, "file")
        url = require_signed_url(headers.get("location", ""), api_url=self._api.base_url)
        self._api.write(
            f"upload {name}",
            lambda _client: put_bytes(url, source, size),
            lambda _headers: None,
            seconds=upload_timeout(self._api.profile, size),
        )
        return self._start_check(file_id)

    def _start_check(self, file_id: str) -> RemoteFile:
        return self._api.write(
            f"have file {file_id} checked",
            lambda client: request_json(client, "POST", f"/v1/files/{file_id}/preprocess"),
            file_of,
        )

    def _reuse(self, body: dict[str, Any]) -> RemoteFile | None:
        """The file with the same bytes that the host has; ``None`` if its bytes never arrived, and it was removed."""
        file = self.get(checked_id({"id": body.get("file_id")}, "file"))
        if file.status != UNPROCESSED:
            return file
        try:
            return self._start_check(file.id)
        except (NotFoundError, RequestRefusedError):
            self.delete(file.id)
            return None

    def _upload_in_parts(self, source: BinaryIO, size: int, fields: dict[str, str]) -> RemoteFile | None:
        name = fields["file_name"]
        part_bytes = max(self._part_bytes, math.ceil(size / MAX_PARTS))
        body = {**fields, "file_size": size, "num_parts": math.ceil(size / part_bytes)}
        status, _, upload = self._api.write(
            f"start the upload of {name}",
            lambda client: _answer_of(lambda: send(client, "POST", "/v1/files/multipart/initiate", body=body)),
            lambda answer: answer,
        )
        if status == 409:
            return self._reuse(upload)
        ids = {
            "upload_id": checked_id({"id": upload.get("upload_id")}, "upload"),
            "file_id": checked_id({"id": upload.get("file_id")}, "file"),
        }
        try:
            parts = self._send_parts(source, upload, part_bytes)
            return self._api.write(
                "assemble the parts",
                lambda client: request_json(
                    client, "POST", "/v1/files/multipart/complete", body={**ids, "parts": parts}
                ),
                lambda response: file_of(response.get("file", response)),
                seconds=600,
            )
        except ResponseLostError:
            raise  # it may be complete: the caller looks for the file
        except FtpipeError:
            self._api.call_once(
                "cancel the upload",
                lambda client: request_json(client, "POST", "/v1/files/multipart/abort", body=ids),
                lambda _response: None,
            )
            raise

    def _send_parts(self, source: BinaryIO, upload: dict[str, Any], part_bytes: int) -> list[dict[str, Any]]:
        """Send each part to its own address; returns their numbers with the digests that the storage answered."""
        sent = []
        for number, part in enumerate(upload.get("parts") or [], start=1):
            fields = part if isinstance(part, dict) else {}
            url = require_signed_url(text(fields.get("URL") or fields.get("UploadURL")), api_url=self._api.base_url)
            data = source.read(part_bytes)
            headers = {str(name): str(value) for name, value in (fields.get("Headers") or {}).items()}
            tag = self._send_part(number, url, data, headers)
            sent.append({"part_number": int(fields.get("PartNumber") or fields.get("part_number") or number), **tag})
        return sent

    def _send_part(self, number: int, url: str, data: bytes, headers: dict[str, str]) -> dict[str, str]:
        def send_once() -> str:
            return self._api.write(
                f"upload part {number}",
                lambda _client: put_bytes(url, io.BytesIO(data), len(data), headers=headers),
                lambda answered: text(answered.get("etag")).strip('"'),
                seconds=upload_timeout(self._api.profile, len(data)),
            )

        try:
            tag = retry(
                send_once,
                retry_on=lambda exc: is_transient(exc) or isinstance(exc, ResponseLostError),
                attempts=MAX_PART_ATTEMPTS,
                first_wait=0.5,
                max_wait=10,
            )
        except ResponseLostError as exc:
            # other than a lost completion, this leaves nothing to look for
            raise ConnectionFailedError(
                exc.message, "run `ftpipe resume` to upload it again; nothing was paid"
            ) from exc
        if not tag:
            raise InvalidResponseError(f"the storage named no digest for part {number}")
        return {"etag": tag}


def _answer_of(call: Callable[[], Any]) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and JSON of a response; a redirect and "exists already" are answers here, not errors."""
    try:
        response = call()
    except openai.APIStatusError as exc:
        if exc.status_code not in (302, 409):
            raise
        response = exc.response
    headers = {name.lower(): value for name, value in response.headers.items()}
    is_json = response.content and response.status_code != 302
    return response.status_code, headers, dict(response.json()) if is_json else {}
