"""Files at endpoints, by the digest of their bytes."""

from __future__ import annotations

import sqlalchemy as sa

from ftpipe.records import UploadedFile
from ftpipe.registry import schema
from ftpipe.registry.connect import read_transaction
from ftpipe.registry.rows import RepositoryBase, from_json


class FileRecords(RepositoryBase):
    """The uploaded files that are remembered."""

    def file(self, endpoint: str, sha256: str) -> UploadedFile | None:
        """The file with these bytes at that endpoint, as it was last seen."""
        table = schema.files
        with read_transaction(self.engine) as connection:
            query = sa.select(table.c.data).where(table.c.endpoint == endpoint, table.c.sha256 == sha256)
            data = connection.execute(query).scalar()
        return from_json(UploadedFile, data) if data else None

    def save_file(self, file: UploadedFile) -> None:
        """Remember a file at its endpoint."""
        values = {"data": file.model_dump_json(), "last_seen": self.clock()}
        table = schema.files.c
        with self.changing("file seen") as change:
            change.track(schema.files, table.endpoint == file.endpoint, table.sha256 == file.sha256)
            self._upsert(change.connection, schema.files, {"endpoint": file.endpoint, "sha256": file.sha256}, values)

    def forget_file(self, endpoint: str, sha256: str) -> None:
        """The endpoint does not have the file any more."""
        table = schema.files
        with self.changing("file gone") as change:
            change.remove(table, endpoint=endpoint, sha256=sha256)
            change.connection.execute(table.delete().where(table.c.endpoint == endpoint, table.c.sha256 == sha256))
