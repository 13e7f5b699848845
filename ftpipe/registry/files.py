"""Parts of a multi-part upload, kept as they come, so that an upload goes on after a crash."""

from __future__ import annotations

import sqlalchemy as sa

from ftpipe.records import Record, UploadedFile
from ftpipe.registry import tables
from ftpipe.registry.base import RepositoryBase, from_json
from ftpipe.registry.database import read_transaction, write_transaction
from ftpipe.registry.tables import parts, uploads


class OpenUpload(Record):
    """An upload in parts that has been begun."""

    upload_id: str
    part_bytes: int
    expires_at: float
    """UTC Unix seconds after which the endpoint takes no more parts."""
    parts: dict[int, tuple[str, str]]
    """Number from 0 → part id and SHA-256 of the part."""


class UploadParts:
    """The memory of multi-part uploads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def find(self, endpoint: str, sha256: str) -> OpenUpload | None:
        """The upload of these bytes to that endpoint, if one was begun."""
        with read_transaction(self._engine) as connection:
            query = sa.select(uploads).where(uploads.c.endpoint == endpoint, uploads.c.sha256 == sha256)
            row = connection.execute(query).mappings().first()
            if row is None:
                return None
            rows = connection.execute(sa.select(parts).where(parts.c.upload_id == row["upload_id"])).mappings().all()
        return OpenUpload(
            upload_id=row["upload_id"],
            part_bytes=row["part_bytes"],
            expires_at=row["expires_at"],
            parts={part["number"]: (part["part_id"], part["sha256"]) for part in rows},
        )

    def begin(self, endpoint: str, sha256: str, *, upload_id: str, part_bytes: int, expires_at: float) -> None:
        """Remember that an upload was begun."""
        with write_transaction(self._engine) as connection:
            self._drop(connection, endpoint, sha256)
            connection.execute(
                uploads.insert().values(
                    endpoint=endpoint, sha256=sha256, upload_id=upload_id, part_bytes=part_bytes, expires_at=expires_at
                )
            )

    def add(self, upload_id: str, *, number: int, part_id: str, sha256: str) -> None:
        """Remember a part that has arrived."""
        with write_transaction(self._engine) as connection:
            connection.execute(parts.delete().where(parts.c.upload_id == upload_id, parts.c.number == number))
            connection.execute(
                parts.insert().values(upload_id=upload_id, number=number, part_id=part_id, sha256=sha256)
            )

    def drop(self, endpoint: str, sha256: str) -> None:
        """Forget an upload: it is complete, or it is no use any more."""
        with write_transaction(self._engine) as connection:
            self._drop(connection, endpoint, sha256)

    def _drop(self, connection: sa.Connection, endpoint: str, sha256: str) -> None:
        where = (uploads.c.endpoint == endpoint) & (uploads.c.sha256 == sha256)
        old = sa.select(uploads.c.upload_id).where(where)
        connection.execute(parts.delete().where(parts.c.upload_id.in_(old)))
        connection.execute(uploads.delete().where(where))


class FileRecords(RepositoryBase):
    """The uploaded files that are remembered."""

    def file(self, endpoint: str, sha256: str) -> UploadedFile | None:
        """The file with these bytes at that endpoint, as it was last seen."""
        table = tables.files
        with read_transaction(self.engine) as connection:
            query = sa.select(table.c.data).where(table.c.endpoint == endpoint, table.c.sha256 == sha256)
            data = connection.execute(query).scalar()
        return from_json(UploadedFile, data) if data else None

    def save_file(self, file: UploadedFile) -> None:
        """Remember a file at its endpoint."""
        values = {"data": file.model_dump_json(), "last_seen": self.clock()}
        table = tables.files.c
        with self.changing("file seen") as change:
            change.track(tables.files, table.endpoint == file.endpoint, table.sha256 == file.sha256)
            self._upsert(change.connection, tables.files, {"endpoint": file.endpoint, "sha256": file.sha256}, values)

    def forget_file(self, endpoint: str, sha256: str) -> None:
        """The endpoint does not have the file any more."""
        table = tables.files
        with self.changing("file gone") as change:
            change.remove(table, endpoint=endpoint, sha256=sha256)
            change.connection.execute(table.delete().where(table.c.endpoint == endpoint, table.c.sha256 == sha256))
