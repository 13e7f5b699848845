"""``/files``: upload, list, retrieve, download and delete files."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import rename_durably
from ftpipe.server.api.schemas import CreateFile, validate_body
from ftpipe.server.batches.input_file import MAX_INPUT_BYTES
from ftpipe.server.clock import now
from ftpipe.server.protocol import (
    ApiError,
    ApiRequest,
    Download,
    Stream,
    bad_request,
    enum_query_param,
    int_query_param,
    missing_parameter,
    new_id,
    not_found,
    parse_json,
)
from ftpipe.server.storage import RESULT_PURPOSE, FileRow, Transaction
from ftpipe.server.storage.cleanup import delete_after_commit
from ftpipe.server.storage.data_dir import DataDirectory

MAX_LIMIT = 10_000
JSONL_PURPOSES = {"fine-tune": "fine-tuning", "batch": "batches"}
_ENCODE_BYTES = 57 * 1024
"""A multiple of three, so that the encoded pieces can be joined."""


class FilesApi:
    """The handlers of ``/files``.

    Args:
        data_dir: Folder of the bytes.
    """

    def __init__(self, data_dir: DataDirectory) -> None:
        self._data_dir = data_dir

    def create(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Store the file of a form."""
        body = validate_body(CreateFile, _form_fields(request.body))
        if request.file is None:
            raise missing_parameter("file")
        check_upload(body.purpose, request.file.filename, request.file.bytes)
        created = now()
        row = FileRow(
            id=new_id("file-"),
            owner=request.owner,
            filename=request.file.filename,
            purpose=body.purpose,
            bytes=request.file.bytes,
            sha256=request.file.sha256,
            created_at=created,
            expires_at=None if body.expires_after is None else created + body.expires_after.seconds,
        )
        rename_durably(request.file.path, self._data_dir.file(row.id))
        tx.files.add(row)
        return serialize_file(row)

    def list(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One page of the owner's files."""
        page = tx.files.page_of(
            request.owner,
            now=now(),
            purpose=request.query_params.get("purpose"),
            after=request.query_params.get("after"),
            limit=int_query_param(request, "limit", MAX_LIMIT, maximum=MAX_LIMIT),
            oldest_first=enum_query_param(request, "order", ("desc", "asc")) == "asc",
        )
        return {
            "object": "list",
            "data": [serialize_file(row) for row in page.rows],
            # Source: OpenAI API description, ListFilesResponse, 2026-08-21: strings, also for an empty list.
            "first_id": page.rows[0].id if page.rows else "",
            "last_id": page.rows[-1].id if page.rows else "",
            "has_more": page.has_more,
        }

    def retrieve(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One file."""
        return serialize_file(self._find(request, tx))

    def content(self, request: ApiRequest, tx: Transaction) -> Stream | Download:
        """A file's bytes; a result file is base64-encoded, as OpenAI serves it."""
        row = self._find(request, tx)
        path = self._data_dir.file(row.id)
        if not path.is_file():
            message = "The file's content is gone."
            raise ApiError(404, message)
        if row.purpose == RESULT_PURPOSE:
            return Stream(_base64_pieces(path), "text/plain")
        return Download(path, row.filename)

    def delete(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Delete a file; jobs that were created from it have a link of their own to its bytes."""
        row = self._find(request, tx)
        tx.files.delete(row.id)
        delete_after_commit(tx, self._data_dir, self._data_dir.file(row.id))
        return {"id": row.id, "object": "file", "deleted": True}

    @staticmethod
    def _find(request: ApiRequest, tx: Transaction) -> FileRow:
        row = tx.files.get(request.owner, request.path_params["file_id"], now=now())
        if row is None:
            what = "File object"
            raise not_found(what, request.path_params["file_id"])
        return row


def check_upload(purpose: str, filename: str, size: int) -> None:
    """Refuse what cannot be used for its purpose; the lines are validated when a job or batch starts.

    Raises:
        ApiError: 400.
    """
    if purpose == "evals":
        message = "Purpose 'evals' is not served: the Evals API has ended."
        raise bad_request(message, "purpose")
    if purpose not in JSONL_PURPOSES:
        return
    if not filename.lower().endswith(".jsonl"):
        message = f"Invalid file format for {JSONL_PURPOSES[purpose]}: the file's name must end in .jsonl."
        raise bad_request(message, "file", "invalid_file_format")
    if size == 0:
        message = "The file is empty."
        raise bad_request(message, "file", "empty_file")
    if purpose == "batch" and size > MAX_INPUT_BYTES:
        message = f"The input file of a batch can have at most {MAX_INPUT_BYTES} bytes."
        raise bad_request(message, "file", "file_too_large")


def serialize_file(row: FileRow) -> dict[str, Any]:
    """A file as the API returns it."""
    serialized: dict[str, Any] = {
        "id": row.id,
        "object": "file",
        "bytes": row.bytes,
        "created_at": row.created_at,
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
    }
    if row.expires_at is not None:
        serialized["expires_at"] = row.expires_at
    return serialized


def _form_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Form fields with ``expires_after`` as one object, however the client sent it: as JSON or as nested fields."""
    plain = {name: value for name, value in fields.items() if not name.startswith("expires_after")}
    if "expires_after" in fields:
        try:
            plain["expires_after"] = parse_json(fields["expires_after"])
        except ValueError as exc:
            message = "Invalid 'expires_after': expected an object."
            raise bad_request(message, "expires_after") from exc
    nested = {name[14:-1]: value for name, value in fields.items() if name.startswith("expires_after[")}
    if nested:
        plain["expires_after"] = nested
        seconds = nested.get("seconds", "")
        if isinstance(seconds, str) and seconds.isascii() and seconds.isdigit() and len(seconds) < 10:
            nested["seconds"] = int(seconds)
    return plain


def _base64_pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_ENCODE_BYTES):
            yield base64.b64encode(piece)
