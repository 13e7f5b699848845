"""Uploads: large files in parts, which may come in parallel and are put together at the end."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import fsync, rename_durably
from ftpipe.server.api.files import check_upload, serialize_file
from ftpipe.server.api.schemas import CompleteUpload, CreateUpload, validate_body
from ftpipe.server.clock import now
from ftpipe.server.protocol import ApiError, ApiRequest, bad_request, new_id, not_found
from ftpipe.server.settings import ServeSettings
from ftpipe.server.storage import FileRow, PartRow, Store, Transaction, UploadRow
from ftpipe.server.storage.data_dir import DataDirectory, sanitize_filename

COPY_BYTES = 1024 * 1024


class UploadsApi:
    """The handlers of ``/uploads``.

    Args:
        store: The server's memory.
        data_dir: Where parts and files lie.
        settings: Limits.
    """

    def __init__(self, store: Store, data_dir: DataDirectory, settings: ServeSettings) -> None:
        self._store = store
        self._data_dir = data_dir
        self._settings = settings
        self._completing: set[str] = set()
        self._lock = threading.Lock()

    def create(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Announce a file."""
        asked = validate_body(CreateUpload, call.body)
        if asked.bytes > self._settings.max_upload_bytes:
            message = f"Invalid 'bytes': at most {self._settings.max_upload_bytes} bytes are taken."
            raise bad_request(message, "bytes", "file_too_large")
        filename = sanitize_filename(asked.filename)
        check_upload(asked.purpose, filename, asked.bytes)
        row = UploadRow(
            id=new_id("upload_"),
            owner=call.owner,
            filename=filename,
            purpose=asked.purpose,
            bytes=asked.bytes,
            mime_type=asked.mime_type,
            status="pending",
            created_at=now(),
            expires_at=now() + self._settings.upload_seconds,
            file_expires_after=None if asked.expires_after is None else asked.expires_after.seconds,
        )
        self._data_dir.upload(row.id).mkdir(mode=0o700)
        tx.uploads.add(row)
        return serialize_upload(row, None)

    def add_part(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Take one part over; parts may come in any order and at the same time."""
        upload = self._pending(call, tx)
        if call.file is None:
            message = "Missing required parameter: 'data'."
            raise bad_request(message, "data", "missing_required_parameter")
        row = PartRow(new_id("part_"), upload.id, call.file.bytes, now())
        rename_durably(call.file.path, self._data_dir.part(upload.id, row.id))
        tx.parts.add(row)
        return {"id": row.id, "object": "upload.part", "created_at": row.created_at, "upload_id": upload.id}

    def cancel(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Give an upload up; cancelling twice changes nothing."""
        upload = self._find(call, tx)
        if upload.status == "completed":
            message = f"Upload {upload.id} is completed and cannot be cancelled."
            raise bad_request(message, None, "invalid_upload_status")
        if upload.status == "pending":
            tx.uploads.set_status(upload.id, "cancelled")
            tx.parts.delete_for_upload(upload.id)
            tx.after_commit.append(partial(shutil.rmtree, self._data_dir.upload(upload.id), ignore_errors=True))
            upload = self._find(call, tx)
        return serialize_upload(upload, None)

    def complete(self, call: ApiRequest) -> Mapping[str, Any]:
        """Put the parts together, in the order that the request gives."""
        asked = validate_body(CompleteUpload, call.body)
        with self._exclusive(call.path["upload_id"]):
            with self._store.read() as tx:
                upload = self._find(call, tx)
                if upload.status == "completed" and upload.file_id is not None:
                    return serialize_upload(upload, tx.files.get(call.owner, upload.file_id, now=now()))
                upload = self._pending(call, tx)
                parts = _in_order(tx.parts.for_upload(upload.id), asked.part_ids)
            size = sum(part.bytes for part in parts)
            if size != upload.bytes:
                message = f"The parts have {size} bytes together, but {upload.bytes} were announced."
                raise bad_request(message, "part_ids", "invalid_upload_size")
            aside = self._data_dir.incoming / secrets.token_hex(16)
            try:
                return self._finish(call, upload, self._concatenate(upload, parts, aside, asked.md5), aside)
            finally:
                aside.unlink(missing_ok=True)

    def _concatenate(self, upload: UploadRow, parts: list[PartRow], aside: Path, md5: str | None) -> str:
        """Write the parts one after the other.

        Returns:
            The SHA-256 of the whole.

        Raises:
            ApiError: 400 where the whole has another MD5 than the client says.
        """
        whole = hashlib.sha256()
        # OpenAI's protocol compares MD5; it guards against accidents, not against attackers.
        check = hashlib.md5(usedforsecurity=False)
        with aside.open("xb") as target:
            for part in parts:
                with self._data_dir.part(upload.id, part.id).open("rb") as source:
                    while piece := source.read(COPY_BYTES):
                        whole.update(piece)
                        check.update(piece)
                        target.write(piece)
        fsync(aside)
        if md5 is not None and md5.lower() != check.hexdigest():
            message = "The file's MD5 is not the one that was given."
            raise bad_request(message, "md5", "checksum_mismatch")
        return whole.hexdigest()

    def _finish(self, call: ApiRequest, upload: UploadRow, sha256: str, aside: Path) -> Mapping[str, Any]:
        created = now()
        row = FileRow(
            id=new_id("file-"),
            owner=upload.owner,
            filename=upload.filename,
            purpose=upload.purpose,
            bytes=upload.bytes,
            sha256=sha256,
            created_at=created,
            expires_at=None if upload.file_expires_after is None else created + upload.file_expires_after,
        )
        with self._store.write() as tx:
            self._pending(call, tx)
            rename_durably(aside, self._data_dir.file(row.id))
            tx.files.add(row)
            tx.uploads.set_status(upload.id, "completed", row.id)
            tx.parts.delete_for_upload(upload.id)
            tx.after_commit.append(partial(shutil.rmtree, self._data_dir.upload(upload.id), ignore_errors=True))
            return serialize_upload(self._find(call, tx), row)

    @contextmanager
    def _exclusive(self, upload_id: str) -> Iterator[None]:
        """Keep a second completion out while the first puts the parts together."""
        with self._lock:
            if upload_id in self._completing:
                message = "This upload is being completed."
                raise ApiError(409, message, "upload_in_use")
            self._completing.add(upload_id)
        try:
            yield
        finally:
            with self._lock:
                self._completing.discard(upload_id)

    def _pending(self, call: ApiRequest, tx: Transaction) -> UploadRow:
        upload = self._find(call, tx)
        if _status(upload) != "pending":
            message = f"Upload {upload.id} is {_status(upload)}."
            raise bad_request(message, None, "invalid_upload_status")
        return upload

    @staticmethod
    def _find(call: ApiRequest, tx: Transaction) -> UploadRow:
        upload = tx.uploads.get(call.owner, call.path["upload_id"])
        if upload is None:
            what = "Upload"
            raise not_found(what, call.path["upload_id"], "upload_id")
        return upload


def _in_order(parts: list[PartRow], wanted: list[str]) -> list[PartRow]:
    known = {part.id: part for part in parts}
    if len(set(wanted)) != len(wanted) or any(part_id not in known for part_id in wanted):
        message = "Invalid 'part_ids': each must name a part of this upload, once."
        raise bad_request(message, "part_ids")
    return [known[part_id] for part_id in wanted]


def _status(upload: UploadRow) -> str:
    overdue = upload.status == "pending" and upload.expires_at <= now()
    return "expired" if overdue else upload.status


def serialize_upload(upload: UploadRow, file: FileRow | None) -> dict[str, Any]:
    """An upload as the API describes it."""
    described: dict[str, Any] = {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.bytes,
        "created_at": upload.created_at,
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": _status(upload),
        "expires_at": upload.expires_at,
    }
    if file is not None:
        described["file"] = serialize_file(file)
    return described
