"""Cursor pages over a table, newest first unless asked otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, RowMapping, Table, delete, func, insert, or_, select, update

import ftpipe.server.storage.tables as tables
from ftpipe.errors import NotFoundError
from ftpipe.server.clock import now
from ftpipe.server.protocol import new_id
from ftpipe.server.storage.rows import (
    CheckpointRow,
    CompletionRow,
    EventRow,
    FileRow,
    IdempotencyRow,
    JobRow,
    PartRow,
    PermissionRow,
    UploadRow,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = TypeVar("Row", bound="DataclassInstance")


class UnknownCursorError(NotFoundError):
    """``after`` names nothing in the list that is being read."""


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """One page of a list."""

    rows: tuple[Row, ...]
    has_more: bool


class Repository(Generic[Row]):
    """A table read and written as records; the tables' own classes add what is theirs.

    Args:
        conn: Connection whose transaction all calls belong to.
    """

    table: Table
    record_type: type[Row]

    def __init__(self, conn: Connection) -> None:
        self.conn = conn

    def to_record(self, mapping: RowMapping) -> Row:
        """A database row as its record."""
        return self.record_type(**{field.name: mapping[field.name] for field in fields(self.record_type)})

    def add(self, row: Row) -> None:
        """Insert one record; the database gives it its place in the order."""
        values = asdict(row)
        values.pop("seq", None)
        self.conn.execute(insert(self.table).values(**values))

    def first(self, *conditions: ColumnElement[bool]) -> Row | None:
        """The first record that fits, or ``None``."""
        found = self.conn.execute(select(self.table).where(*conditions).limit(1)).mappings().first()
        return None if found is None else self.to_record(found)

    def all(self, *conditions: ColumnElement[bool]) -> list[Row]:
        """All records that fit, oldest first."""
        rows = self.conn.execute(select(self.table).where(*conditions).order_by(self.table.c.seq)).mappings()
        return [self.to_record(row) for row in rows]

    def page(
        self,
        conditions: Sequence[ColumnElement[bool]],
        *,
        after: str | None,
        limit: int,
        order: Column[int] | None = None,
        oldest_first: bool = False,
    ) -> Page[Row]:
        """The ``limit`` records that follow the one named by ``after``.

        Args:
            conditions: What a record must meet; the first one says whose list it is, and ``after`` must be in it.
            after: Id of the last record of the page before; it need not fit the further clauses.
            limit: Most records to return.
            order: Column to go by; the order of arrival if ``None``.
            oldest_first: Go up instead of down.

        Raises:
            UnknownCursorError: If ``after`` is not in the list.
        """
        by = self.table.c.seq if order is None else order
        clauses = list(conditions)
        if after is not None:
            edge = self.conn.execute(select(by).where(self.table.c.id == after, conditions[0])).scalar()
            if edge is None:
                message = f"No item with id '{after}' is in this list."
                raise UnknownCursorError(message)
            clauses.append(by > edge if oldest_first else by < edge)
        query = select(self.table).where(*clauses).order_by(by if oldest_first else by.desc()).limit(limit + 1)
        rows = [self.to_record(row) for row in self.conn.execute(query).mappings()]
        return Page(tuple(rows[:limit]), len(rows) > limit)


class PermissionRepository(Repository[PermissionRow]):
    """The permissions table."""

    table = tables.permissions
    record_type = PermissionRow

    def find(self, checkpoint: str, project_id: str) -> PermissionRow | None:
        """A project's leave for a checkpoint."""
        return self.first(tables.permissions.c.checkpoint == checkpoint, tables.permissions.c.project_id == project_id)

    def get(self, checkpoint: str, permission_id: str) -> PermissionRow | None:
        """A permission by its id."""
        return self.first(tables.permissions.c.checkpoint == checkpoint, tables.permissions.c.id == permission_id)

    def page_of(
        self, checkpoint: str, *, project_id: str | None, after: str | None, limit: int, oldest_first: bool
    ) -> Page[PermissionRow]:
        """One page of a checkpoint's permissions."""
        where: list[ColumnElement[bool]] = [tables.permissions.c.checkpoint == checkpoint]
        if project_id is not None:
            where.append(tables.permissions.c.project_id == project_id)
        return self.page(where, after=after, limit=limit, oldest_first=oldest_first)

    def delete(self, permission_id: str) -> None:
        """Take a permission back."""
        self.conn.execute(delete(tables.permissions).where(tables.permissions.c.id == permission_id))


class CompletionRepository(Repository[CompletionRow]):
    """The table of stored chat answers."""

    table = tables.completions
    record_type = CompletionRow

    def page_of(
        self,
        owner: str,
        *,
        model: str | None,
        metadata: Mapping[str, str],
        without_metadata: bool,
        after: str | None,
        limit: int,
        oldest_first: bool,
    ) -> Page[CompletionRow]:
        """One page of an owner's stored answers."""
        where: list[ColumnElement[bool]] = [tables.completions.c.owner == owner]
        if model is not None:
            where.append(tables.completions.c.model == model)
        if without_metadata:
            where.append(func.json(tables.completions.c.user_metadata) == "{}")
        for key, value in metadata.items():
            each = func.json_each(tables.completions.c.user_metadata).table_valued("key", "value")
            where.append(select(each.c.key).where(each.c.key == key, each.c.value == value).exists())
        return self.page(where, after=after, limit=limit, oldest_first=oldest_first)


class IdempotencyRepository(Repository[IdempotencyRow]):
    """The table of answers given under an Idempotency-Key."""

    table = tables.idempotency_keys
    record_type = IdempotencyRow

    def find(self, owner: str, key: str) -> IdempotencyRow | None:
        """What was answered under this key."""
        return self.first(tables.idempotency_keys.c.owner == owner, tables.idempotency_keys.c.key == key)

    def delete_before(self, moment: int) -> None:
        """Drop replies that are older than they are promised to be kept."""
        self.conn.execute(delete(tables.idempotency_keys).where(tables.idempotency_keys.c.created_at < moment))


TERMINAL_STATUSES = ("succeeded", "failed", "cancelled")


class JobRepository(Repository[JobRow]):
    """The jobs table."""

    table = tables.jobs
    record_type = JobRow

    def create(self, row: JobRow) -> None:
        """Insert a job and its metadata, so that it can be found by them."""
        self.add(row)
        metadata = [{"job_id": row.id, "key": key, "value": value} for key, value in (row.user_metadata or {}).items()]
        if metadata:
            self.conn.execute(insert(tables.job_metadata), metadata)

    def get(self, job_id: str, owner: str | None = None) -> JobRow | None:
        """A job by id; with ``owner`` only that owner's."""
        where = [tables.jobs.c.id == job_id]
        if owner is not None:
            where.append(tables.jobs.c.owner == owner)
        return self.first(*where)

    def page_of(
        self, owner: str, *, after: str | None, limit: int, metadata: Mapping[str, str] | None, without_metadata: bool
    ) -> Page[JobRow]:
        """One page of an owner's jobs, newest first.

        Args:
            owner: Whose jobs.
            after: Id of the last job of the page before.
            limit: Most jobs to return.
            metadata: Metadata that a job must have, all of it.
            without_metadata: Only jobs without any metadata.
        """
        where = [tables.jobs.c.owner == owner]
        of_job = tables.job_metadata.c.job_id == tables.jobs.c.id
        for key, value in (metadata or {}).items():
            same = (tables.job_metadata.c.key == key, tables.job_metadata.c.value == value)
            where.append(select(tables.job_metadata.c.job_id).where(of_job, *same).exists())
        if without_metadata:
            where.append(~select(tables.job_metadata.c.job_id).where(of_job).exists())
        return self.page(where, after=after, limit=limit)

    def update(self, job_id: str, **values: Any) -> None:
        """Set columns of one job."""
        self.conn.execute(update(tables.jobs).where(tables.jobs.c.id == job_id).values(**values))

    def open(self) -> list[JobRow]:
        """Jobs that need the supervisor: not ended, or with a trainer that must still be ended; oldest first."""
        idle = (*TERMINAL_STATUSES, "paused")
        return self.all(or_(tables.jobs.c.status.not_in(idle), tables.jobs.c.has_trainer.is_(True)))

    def count_open(self, owner: str) -> int:
        """How many jobs of this owner have not ended."""
        query = select(func.count()).where(tables.jobs.c.owner == owner, tables.jobs.c.status.not_in(TERMINAL_STATUSES))
        return self.conn.execute(query).scalar_one()

    def by_model(self, name: str) -> JobRow | None:
        """The job that made a model that was not deleted."""
        return self.first(tables.jobs.c.fine_tuned_model == name, tables.jobs.c.deleted.is_(False))

    def models(self, owner: str) -> list[JobRow]:
        """The jobs of an owner whose models answer, oldest first."""
        made = tables.jobs.c.fine_tuned_model.is_not(None)
        return self.all(made, tables.jobs.c.owner == owner, tables.jobs.c.deleted.is_(False))


class FileRepository(Repository[FileRow]):
    """The files table."""

    table = tables.files
    record_type = FileRow

    def get(self, owner: str, file_id: str, *, now: int) -> FileRow | None:
        """One owner's file that has not expired."""
        return self.first(tables.files.c.id == file_id, *self._visible(owner, now))

    def page_of(
        self, owner: str, *, now: int, purpose: str | None, after: str | None, limit: int, oldest_first: bool
    ) -> Page[FileRow]:
        """One page of an owner's files."""
        where = self._visible(owner, now)
        if purpose is not None:
            where.append(tables.files.c.purpose == purpose)
        return self.page(where, after=after, limit=limit, oldest_first=oldest_first)

    def delete(self, file_id: str) -> None:
        """Forget a file; its bytes are removed by the caller afterwards."""
        self.conn.execute(delete(tables.files).where(tables.files.c.id == file_id))

    def expired(self, now: int) -> list[FileRow]:
        """Files of all owners whose time is over."""
        return self.all(tables.files.c.expires_at <= now)

    @staticmethod
    def _visible(owner: str, now: int) -> list[ColumnElement[bool]]:
        return [
            tables.files.c.owner == owner,
            or_(tables.files.c.expires_at.is_(None), tables.files.c.expires_at > now),
        ]


class UploadRepository(Repository[UploadRow]):
    """The uploads table."""

    table = tables.uploads
    record_type = UploadRow

    def get(self, owner: str, upload_id: str) -> UploadRow | None:
        """One owner's upload."""
        return self.first(tables.uploads.c.id == upload_id, tables.uploads.c.owner == owner)

    def set_status(self, upload_id: str, status: str, file_id: str | None = None) -> None:
        """Give an upload the status that it ends in."""
        query = update(tables.uploads).where(tables.uploads.c.id == upload_id)
        self.conn.execute(query.values(status=status, file_id=file_id))

    def overdue(self, now: int) -> list[UploadRow]:
        """Pending uploads of all owners whose hour is over."""
        return self.all(tables.uploads.c.status == "pending", tables.uploads.c.expires_at <= now)


class PartRepository(Repository[PartRow]):
    """The parts table."""

    table = tables.parts
    record_type = PartRow

    def for_upload(self, upload_id: str) -> list[PartRow]:
        """All parts of an upload, in the order of their arrival."""
        return self.all(tables.parts.c.upload_id == upload_id)

    def delete_for_upload(self, upload_id: str) -> None:
        """Forget the parts of an upload that has ended."""
        self.conn.execute(delete(tables.parts).where(tables.parts.c.upload_id == upload_id))


class EventRepository(Repository[EventRow]):
    """The events table."""

    table = tables.events
    record_type = EventRow

    def page_of(self, job_id: str, *, after: str | None, limit: int) -> Page[EventRow]:
        """One page of a job's events, newest first."""
        return self.page([tables.events.c.job_id == job_id], after=after, limit=limit)

    def append_message(self, job_id: str, message: str, *, level: str = "info") -> None:
        """Add an event of the server itself to a job."""
        self.add(
            EventRow(
                id=new_id("ftevent-"), job_id=job_id, created_at=now(), level=level, type="message", message=message
            )
        )


class CheckpointRepository(Repository[CheckpointRow]):
    """The checkpoints table."""

    table = tables.checkpoints
    record_type = CheckpointRow

    def page_of(self, job_id: str, *, after: str | None, limit: int) -> Page[CheckpointRow]:
        """One page of a job's kept checkpoints, highest step first."""
        where = [tables.checkpoints.c.job_id == job_id, tables.checkpoints.c.removed.is_(False)]
        return self.page(where, after=after, limit=limit, order=tables.checkpoints.c.step)

    def for_job(self, job_id: str) -> list[CheckpointRow]:
        """All checkpoints that a job ever made, in the order they were made."""
        return self.all(tables.checkpoints.c.job_id == job_id)

    def by_model(self, name: str) -> CheckpointRow | None:
        """A kept checkpoint by the name that it answers to."""
        return self.first(tables.checkpoints.c.model_name == name, tables.checkpoints.c.removed.is_(False))

    def remove(self, checkpoint_id: str) -> None:
        """Note that a checkpoint's files are not kept any more."""
        query = update(tables.checkpoints).where(tables.checkpoints.c.id == checkpoint_id)
        self.conn.execute(query.values(removed=True))
