"""Files at endpoints, and the parts of unfinished uploads, so that an upload continues after a crash."""

from __future__ import annotations

import sqlalchemy as sa

from ftpipe.records import Record, UploadedFile
from ftpipe.registry.base import Repository, from_json, upsert
from ftpipe.registry.database import read_transaction, write_transaction
from ftpipe.registry.tables import files_table, parts_table, uploads_table


class OpenUpload(Record):
    """An unfinished multi-part upload."""

    upload_id: str
    part_bytes: int
    expires_at: float
    """UTC Unix seconds after which the endpoint accepts no more parts."""
    parts: dict[int, tuple[str, str]]
    """Number from 0 → part id and SHA-256 of the part."""


class UploadRepository:
    """The unfinished multi-part uploads. They are not audited, because they matter only until the file exists."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def find(self, endpoint: str, sha256: str) -> OpenUpload | None:
        """The upload of these bytes to that endpoint, if there is one."""
        with read_transaction(self._engine) as connection:
            query = sa.select(uploads_table).where(
                uploads_table.c.endpoint == endpoint, uploads_table.c.sha256 == sha256
            )
            row = connection.execute(query).mappings().first()
            if row is None:
                return None
            rows = (
                connection.execute(sa.select(parts_table).where(parts_table.c.upload_id == row["upload_id"]))
                .mappings()
                .all()
            )
        return OpenUpload(
            upload_id=row["upload_id"],
            part_bytes=row["part_bytes"],
            expires_at=row["expires_at"],
            parts={part["number"]: (part["part_id"], part["sha256"]) for part in rows},
        )

    def start(self, endpoint: str, sha256: str, *, upload_id: str, part_bytes: int, expires_at: float) -> None:
        """Save a new upload; an earlier one of the same bytes is deleted."""
        with write_transaction(self._engine) as connection:
            self._delete(connection, endpoint, sha256)
            connection.execute(
                uploads_table.insert().values(
                    endpoint=endpoint, sha256=sha256, upload_id=upload_id, part_bytes=part_bytes, expires_at=expires_at
                )
            )

    def add_part(self, upload_id: str, *, number: int, part_id: str, sha256: str) -> None:
        """Save a part that the endpoint has accepted."""
        with write_transaction(self._engine) as connection:
            connection.execute(
                parts_table.delete().where(parts_table.c.upload_id == upload_id, parts_table.c.number == number)
            )
            connection.execute(
                parts_table.insert().values(upload_id=upload_id, number=number, part_id=part_id, sha256=sha256)
            )

    def delete(self, endpoint: str, sha256: str) -> None:
        """Delete an upload that is complete or has expired."""
        with write_transaction(self._engine) as connection:
            self._delete(connection, endpoint, sha256)

    def _delete(self, connection: sa.Connection, endpoint: str, sha256: str) -> None:
        where = (uploads_table.c.endpoint == endpoint) & (uploads_table.c.sha256 == sha256)
        old = sa.select(uploads_table.c.upload_id).where(where)
        connection.execute(parts_table.delete().where(parts_table.c.upload_id.in_(old)))
        connection.execute(uploads_table.delete().where(where))


class FileRepository(Repository):
    """The uploaded files of the registry."""

    def find(self, endpoint: str, sha256: str) -> UploadedFile | None:
        """The file with these bytes at that endpoint, as it was last reported."""
        table = files_table
        with read_transaction(self.engine) as connection:
            query = sa.select(table.c.data).where(table.c.endpoint == endpoint, table.c.sha256 == sha256)
            data = connection.execute(query).scalar()
        return from_json(UploadedFile, data) if data else None

    def save(self, file: UploadedFile) -> None:
        """Save a file at its endpoint."""
        values = {"data": file.model_dump_json(), "updated_at": self.clock()}
        table = files_table.c
        with self.audited_transaction("file saved") as change:
            change.track(files_table, table.endpoint == file.endpoint, table.sha256 == file.sha256)
            upsert(change.connection, files_table, {"endpoint": file.endpoint, "sha256": file.sha256}, values)

    def delete(self, endpoint: str, sha256: str) -> None:
        """Delete a file that its endpoint does not have any more."""
        table = files_table
        with self.audited_transaction("file deleted") as change:
            change.track_deleted(table, endpoint=endpoint, sha256=sha256)
            change.connection.execute(table.delete().where(table.c.endpoint == endpoint, table.c.sha256 == sha256))
