"""Files: create, list, retrieve, content, delete."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import rename_durably
from ftpipe.server.api.schemas import CreateFile, validate_body
from ftpipe.server.clock import now
from ftpipe.server.protocol import (
    ApiError,
    ApiRequest,
    ApiResponse,
    bad_request,
    enum_query_param,
    int_query_param,
    new_id,
    not_found,
)
from ftpipe.server.storage import FileRow, Transaction
from ftpipe.server.storage.data_dir import DataDirectory

MAX_LIMIT = 10_000
RESULTS = "fine-tune-results"
_ENCODE_BYTES = 57 * 1024
"""A multiple of three, so that the pieces' base64 can be joined."""


class FilesApi:
    """The handlers of ``/files``.

    Args:
        data_dir: Where the bytes lie.
    """

    def __init__(self, data_dir: DataDirectory) -> None:
        self._data_dir = data_dir

    def create(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Take a file over that came with a form."""
        asked = validate_body(CreateFile, _form_fields(call.body))
        if call.file is None:
            message = "Missing required parameter: 'file'."
            raise bad_request(message, "file", "missing_required_parameter")
        check_upload(asked.purpose, call.file.filename, call.file.bytes)
        created = now()
        row = FileRow(
            id=new_id("file-"),
            owner=call.owner,
            filename=call.file.filename,
            purpose=asked.purpose,
            bytes=call.file.bytes,
            sha256=call.file.sha256,
            created_at=created,
            expires_at=None if asked.expires_after is None else created + asked.expires_after.seconds,
        )
        rename_durably(call.file.path, self._data_dir.file(row.id))
        tx.files.add(row)
        return serialize_file(row)

    def list(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One page of the owner's files."""
        page = tx.files.page_of(
            call.owner,
            now=now(),
            purpose=call.query.get("purpose"),
            after=call.query.get("after"),
            limit=int_query_param(call, "limit", MAX_LIMIT, maximum=MAX_LIMIT),
            oldest_first=enum_query_param(call, "order", ("desc", "asc")) == "asc",
        )
        return {
            "object": "list",
            "data": [serialize_file(row) for row in page.rows],
            # The description wants strings here, also for an empty list.
            "first_id": page.rows[0].id if page.rows else "",
            "last_id": page.rows[-1].id if page.rows else "",
            "has_more": page.has_more,
        }

    def retrieve(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One file's description."""
        return serialize_file(self._find(call, tx))

    def content(self, call: ApiRequest, tx: Transaction) -> ApiResponse:
        """A file's bytes; a result file comes base64-encoded, as OpenAI serves it."""
        row = self._find(call, tx)
        path = self._data_dir.file(row.id)
        if row.purpose == RESULTS:
            return ApiResponse(text=_base64_pieces(path))
        return ApiResponse(download=path, filename=row.filename)

    def delete(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Forget a file; jobs that were made from it keep their own hold on its bytes."""
        row = self._find(call, tx)
        tx.files.delete(row.id)
        tx.after_commit.append(partial(self._data_dir.file(row.id).unlink, missing_ok=True))
        return {"id": row.id, "object": "file", "deleted": True}

    @staticmethod
    def _find(call: ApiRequest, tx: Transaction) -> FileRow:
        row = tx.files.get(call.owner, call.path["file_id"], now=now())
        if row is None:
            what = "File object"
            raise not_found(what, call.path["file_id"])
        return row


def check_upload(purpose: str, filename: str, size: int) -> None:
    """What is refused at once; the lines are checked when a job starts on the file.

    Raises:
        ApiError: 400.
    """
    if purpose == "evals":
        message = "Purpose 'evals' is not served: the Evals API has ended."
        raise bad_request(message, "purpose")
    if purpose != "fine-tune":
        return
    if not filename.lower().endswith(".jsonl"):
        message = "Invalid file format for fine-tuning: the file's name must end in .jsonl."
        raise bad_request(message, "file", "invalid_file_format")
    if size == 0:
        message = "The file is empty."
        raise bad_request(message, "file", "empty_file")


def serialize_file(row: FileRow) -> dict[str, Any]:
    """A file as the API describes it."""
    described: dict[str, Any] = {
        "id": row.id,
        "object": "file",
        "bytes": row.bytes,
        "created_at": row.created_at,
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
    }
    if row.expires_at is not None:
        described["expires_at"] = row.expires_at
    return described


def _form_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Form fields with ``expires_after`` put together, in either way that clients send it."""
    plain = {name: value for name, value in fields.items() if not name.startswith("expires_after")}
    if "expires_after" in fields:
        try:
            plain["expires_after"] = json.loads(fields["expires_after"])
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
    try:
        with path.open("rb") as handle:
            while piece := handle.read(_ENCODE_BYTES):
                yield base64.b64encode(piece)
    except FileNotFoundError as exc:
        message = "The file's content is gone."
        raise ApiError(404, message) from exc
