"""Files, uploads and their parts."""

from __future__ import annotations

from sqlalchemy import ColumnElement, delete, or_, update

from ftpipe.server.store import schema
from ftpipe.server.store.paging import Page, Repository
from ftpipe.server.store.rows import FileRow, PartRow, UploadRow


class FileRepository(Repository[FileRow]):
    """The files table."""

    table = schema.files
    kind = FileRow

    def get(self, owner: str, file_id: str, *, now: int) -> FileRow | None:
        """One owner's file that has not expired."""
        return self.one(schema.files.c.id == file_id, *self._visible(owner, now))

    def page_of(
        self, owner: str, *, now: int, purpose: str | None, after: str | None, limit: int, oldest_first: bool
    ) -> Page[FileRow]:
        """One page of an owner's files."""
        where = self._visible(owner, now)
        if purpose is not None:
            where.append(schema.files.c.purpose == purpose)
        return self.page(where, after=after, limit=limit, oldest_first=oldest_first)

    def delete(self, file_id: str) -> None:
        """Forget a file; its bytes are removed by the caller afterwards."""
        self.conn.execute(delete(schema.files).where(schema.files.c.id == file_id))

    def expired(self, now: int) -> list[FileRow]:
        """Files of all owners whose time is over."""
        return self.all(schema.files.c.expires_at <= now)

    @staticmethod
    def _visible(owner: str, now: int) -> list[ColumnElement[bool]]:
        return [
            schema.files.c.owner == owner,
            or_(schema.files.c.expires_at.is_(None), schema.files.c.expires_at > now),
        ]


class UploadRepository(Repository[UploadRow]):
    """The uploads table."""

    table = schema.uploads
    kind = UploadRow

    def get(self, owner: str, upload_id: str) -> UploadRow | None:
        """One owner's upload."""
        return self.one(schema.uploads.c.id == upload_id, schema.uploads.c.owner == owner)

    def set_status(self, upload_id: str, status: str, file_id: str | None = None) -> None:
        """Give an upload the status that it ends in."""
        query = update(schema.uploads).where(schema.uploads.c.id == upload_id)
        self.conn.execute(query.values(status=status, file_id=file_id))

    def overdue(self, now: int) -> list[UploadRow]:
        """Pending uploads of all owners whose hour is over."""
        return self.all(schema.uploads.c.status == "pending", schema.uploads.c.expires_at <= now)


class PartRepository(Repository[PartRow]):
    """The parts table."""

    table = schema.parts
    kind = PartRow

    def for_upload(self, upload_id: str) -> list[PartRow]:
        """All parts of an upload, in the order of their arrival."""
        return self.all(schema.parts.c.upload_id == upload_id)

    def delete_for_upload(self, upload_id: str) -> None:
        """Forget the parts of an upload that has ended."""
        self.conn.execute(delete(schema.parts).where(schema.parts.c.upload_id == upload_id))
