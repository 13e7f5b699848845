"""``/uploads``: large files in parts, which can be sent in parallel and are joined at the end."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import fsync, rename_durably
from ftpipe.server.api.files import check_upload, serialize_file
from ftpipe.server.api.schemas import CompleteUpload, CreateUpload, validate_body
from ftpipe.server.clock import now
from ftpipe.server.protocol import ApiError, ApiRequest, bad_request, missing_parameter, new_id, not_found
from ftpipe.server.settings import ServeSettings
from ftpipe.server.storage import FileRow, PartRow, Store, Transaction, UploadRow
from ftpipe.server.storage.cleanup import delete_after_commit
from ftpipe.server.storage.data_dir import DataDirectory, new_body_path, sanitize_filename

COPY_BYTES = 1024 * 1024


class UploadsApi:
    """The handlers of ``/uploads``.

    Args:
        store: The server's database.
        data_dir: Folder of parts and files.
        settings: Limits.
    """

    def __init__(self, store: Store, data_dir: DataDirectory, settings: ServeSettings) -> None:
        self._store = store
        self._data_dir = data_dir
        self._settings = settings
        self._completing: set[str] = set()
        self._lock = threading.Lock()

    def create(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Announce a file."""
        body = validate_body(CreateUpload, request.body)
        if body.bytes > self._settings.max_upload_bytes:
            message = f"Invalid 'bytes': an upload can have at most {self._settings.max_upload_bytes} bytes."
            raise bad_request(message, "bytes", "file_too_large")
        filename = sanitize_filename(body.filename)
        check_upload(body.purpose, filename, body.bytes)
        row = UploadRow(
            id=new_id("upload_"),
            owner=request.owner,
            filename=filename,
            purpose=body.purpose,
            bytes=body.bytes,
            mime_type=body.mime_type,
            status="pending",
            created_at=now(),
            expires_at=now() + self._settings.upload_seconds,
            file_expires_after=None if body.expires_after is None else body.expires_after.seconds,
        )
        self._data_dir.upload(row.id).mkdir(mode=0o700)
        tx.uploads.add(row)
        return serialize_upload(row, None)

    def add_part(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Store one part; parts can be sent in any order and in parallel."""
        upload = self._pending(request, tx)
        if request.file is None:
            raise missing_parameter("data")
        row = PartRow(new_id("part_"), upload.id, request.file.bytes, now())
        rename_durably(request.file.path, self._data_dir.part(upload.id, row.id))
        tx.parts.add(row)
        return {"id": row.id, "object": "upload.part", "created_at": row.created_at, "upload_id": upload.id}

    def cancel(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Cancel an upload; cancelling twice changes nothing."""
        upload = self._find(request, tx)
        if upload.status == "completed":
            message = f"Upload {upload.id} is completed and cannot be cancelled."
            raise bad_request(message, None, "invalid_upload_status")
        if upload.status == "pending":
            tx.uploads.set_status(upload.id, "cancelled")
            tx.parts.delete_for_upload(upload.id)
            delete_after_commit(tx, self._data_dir, self._data_dir.upload(upload.id))
            upload = self._find(request, tx)
        return serialize_upload(upload, None)

    def complete(self, request: ApiRequest) -> Mapping[str, Any]:
        """Join the parts in the order of the request."""
        body = validate_body(CompleteUpload, request.body)
        with self._exclusive(request.path_params["upload_id"]):
            with self._store.read() as tx:
                upload = self._find(request, tx)
                if upload.status == "completed" and upload.file_id is not None:
                    return serialize_upload(upload, tx.files.get(request.owner, upload.file_id, now=now()))
                upload = self._pending(request, tx)
                parts = _in_order(tx.parts.for_upload(upload.id), body.part_ids)
            size = sum(part.bytes for part in parts)
            if size != upload.bytes:
                message = f"The parts have {size} bytes in total, but {upload.bytes} were announced."
                raise bad_request(message, "part_ids", "invalid_upload_size")
            joined = new_body_path(self._data_dir.incoming)
            try:
                return self._finish(request, upload, self._concatenate(upload, parts, joined, body.md5), joined)
            finally:
                joined.unlink(missing_ok=True)

    def _concatenate(self, upload: UploadRow, parts: list[PartRow], target: Path, md5: str | None) -> str:
        """Write the parts to one file.

        Returns:
            The SHA-256 of the file.

        Raises:
            ApiError: 400 if the MD5 is not the one that the client sent.
        """
        sha256 = hashlib.sha256()
        # OpenAI's protocol uses MD5: it detects transmission errors, not attacks.
        md5_digest = hashlib.md5(usedforsecurity=False)
        with target.open("xb") as file:
            for part in parts:
                with self._data_dir.part(upload.id, part.id).open("rb") as source:
                    while piece := source.read(COPY_BYTES):
                        sha256.update(piece)
                        md5_digest.update(piece)
                        file.write(piece)
        fsync(target)
        if md5 is not None and md5.lower() != md5_digest.hexdigest():
            message = "The file's MD5 does not match."
            raise bad_request(message, "md5", "checksum_mismatch")
        return sha256.hexdigest()

    def _finish(self, request: ApiRequest, upload: UploadRow, sha256: str, joined: Path) -> Mapping[str, Any]:
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
            self._pending(request, tx)
            rename_durably(joined, self._data_dir.file(row.id))
            tx.files.add(row)
            tx.uploads.set_status(upload.id, "completed", row.id)
            tx.parts.delete_for_upload(upload.id)
            delete_after_commit(tx, self._data_dir, self._data_dir.upload(upload.id))
            return serialize_upload(self._find(request, tx), row)

    @contextmanager
    def _exclusive(self, upload_id: str) -> Iterator[None]:
        """Refuse a second completion while the first one joins the parts."""
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

    def _pending(self, request: ApiRequest, tx: Transaction) -> UploadRow:
        upload = self._find(request, tx)
        if _status(upload) != "pending":
            message = f"Upload {upload.id} is {_status(upload)}."
            raise bad_request(message, None, "invalid_upload_status")
        return upload

    @staticmethod
    def _find(request: ApiRequest, tx: Transaction) -> UploadRow:
        upload = tx.uploads.get(request.owner, request.path_params["upload_id"])
        if upload is None:
            what = "Upload"
            raise not_found(what, request.path_params["upload_id"], "upload_id")
        return upload


def _in_order(parts: list[PartRow], part_ids: list[str]) -> list[PartRow]:
    known = {part.id: part for part in parts}
    if len(set(part_ids)) != len(part_ids) or any(part_id not in known for part_id in part_ids):
        message = "Invalid 'part_ids': each must name a part of this upload, once."
        raise bad_request(message, "part_ids")
    return [known[part_id] for part_id in part_ids]


def _status(upload: UploadRow) -> str:
    overdue = upload.status == "pending" and upload.expires_at <= now()
    return "expired" if overdue else upload.status


def serialize_upload(upload: UploadRow, file: FileRow | None) -> dict[str, Any]:
    """An upload as the API returns it."""
    serialized: dict[str, Any] = {
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
        serialized["file"] = serialize_file(file)
    return serialized
