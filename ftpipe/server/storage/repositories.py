"""Queries over the server's tables, one class per table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Mapped, Session

from ftpipe.errors import NotFoundError
from ftpipe.records.job import TERMINAL_STATUSES
from ftpipe.server.clock import now
from ftpipe.server.protocol import new_id
from ftpipe.server.storage.tables import (
    CheckpointRow,
    CompletionRow,
    DeletionRow,
    EventRow,
    FileRow,
    IdempotencyRow,
    JobRow,
    PartRow,
    PermissionRow,
    Row,
    UploadRow,
)

AnyRow = TypeVar("AnyRow", bound=Row)


class UnknownCursorError(NotFoundError):
    """``after`` names nothing in the list that is being read."""


@dataclass(frozen=True, slots=True)
class Page(Generic[AnyRow]):
    """One page of a list."""

    rows: tuple[AnyRow, ...]
    has_more: bool


class Repository(Generic[AnyRow]):
    """A table whose rows have an id and can be listed.

    Args:
        session: Its transaction is that of all calls.
    """

    row_type: type[AnyRow]

    def __init__(self, session: Session) -> None:
        self.session = session

    def add(self, row: AnyRow) -> None:
        """Insert a row."""
        self.session.add(row)
        self.session.flush()

    def first(self, *conditions: ColumnElement[bool]) -> AnyRow | None:
        """A row that meets all conditions, or ``None``."""
        return self.session.scalars(select(self.row_type).where(*conditions).limit(1)).first()

    def all(self, *conditions: ColumnElement[bool]) -> list[AnyRow]:
        """All rows that meet all conditions, oldest first."""
        return list(self.session.scalars(select(self.row_type).where(*conditions).order_by(self.row_type.seq)))

    def page(
        self,
        conditions: Sequence[ColumnElement[bool]],
        *,
        after: str | None,
        limit: int,
        order: Mapped[int] | None = None,
        oldest_first: bool = False,
    ) -> Page[AnyRow]:
        """The ``limit`` rows that follow the one named by ``after``.

        Args:
            conditions: What a row must meet; the first one says whose list it is, and ``after`` must be in it.
            after: Id of the last row of the page before; it need not meet the further conditions.
            limit: Maximum number of rows.
            order: Column to sort by; the order of arrival if ``None``.
            oldest_first: Sort upwards instead of downwards.

        Raises:
            UnknownCursorError: If ``after`` is not in the list.
        """
        column = self.row_type.seq if order is None else order
        query = select(self.row_type).where(*conditions)
        if after is not None:
            cursor = self.session.scalar(select(column).where(self.row_type.id == after, conditions[0]))
            if cursor is None:
                message = f"No item with id '{after}' is in this list."
                raise UnknownCursorError(message)
            query = query.where(column > cursor if oldest_first else column < cursor)
        query = query.order_by(column if oldest_first else column.desc()).limit(limit + 1)
        rows = tuple(self.session.scalars(query))
        return Page(rows[:limit], len(rows) > limit)


def _metadata_conditions(
    column: InstrumentedAttribute[Any], metadata: Mapping[str, str], *, without_metadata: bool
) -> list[ColumnElement[bool]]:
    """Conditions for rows with all these key-value pairs, or for rows without any metadata."""
    conditions: list[ColumnElement[bool]] = []
    for key, value in metadata.items():
        each = func.json_each(column).table_valued("key", "value")
        conditions.append(select(each.c.key).where(each.c.key == key, each.c.value == value).exists())
    if without_metadata:
        conditions.append(or_(column.is_(None), func.json(column) == "{}"))
    return conditions


class FileRepository(Repository[FileRow]):
    """The files table."""

    row_type = FileRow

    def get(self, owner: str, file_id: str, *, now: int) -> FileRow | None:
        """One owner's file that has not expired."""
        return self.first(FileRow.id == file_id, *self._visible(owner, now))

    def page_of(
        self, owner: str, *, now: int, purpose: str | None, after: str | None, limit: int, oldest_first: bool
    ) -> Page[FileRow]:
        """One page of an owner's files."""
        conditions = self._visible(owner, now)
        if purpose is not None:
            conditions.append(FileRow.purpose == purpose)
        return self.page(conditions, after=after, limit=limit, oldest_first=oldest_first)

    def delete(self, file_id: str) -> None:
        """Delete a file's row; the caller deletes its bytes after the commit."""
        self.session.execute(delete(FileRow).where(FileRow.id == file_id))

    def expired(self, now: int) -> list[FileRow]:
        """Files of all owners that have expired."""
        return self.all(FileRow.expires_at <= now)

    @staticmethod
    def _visible(owner: str, now: int) -> list[ColumnElement[bool]]:
        return [FileRow.owner == owner, or_(FileRow.expires_at.is_(None), FileRow.expires_at > now)]


class UploadRepository(Repository[UploadRow]):
    """The uploads table."""

    row_type = UploadRow

    def get(self, owner: str, upload_id: str) -> UploadRow | None:
        """One owner's upload."""
        return self.first(UploadRow.id == upload_id, UploadRow.owner == owner)

    def set_status(self, upload_id: str, status: str, file_id: str | None = None) -> None:
        """Set the status that an upload ends in, and the file that it made."""
        query = update(UploadRow).where(UploadRow.id == upload_id)
        self.session.execute(query.values(status=status, file_id=file_id))

    def overdue(self, now: int) -> list[UploadRow]:
        """Pending uploads of all owners that have expired."""
        return self.all(UploadRow.status == "pending", UploadRow.expires_at <= now)


class PartRepository(Repository[PartRow]):
    """The parts table."""

    row_type = PartRow

    def for_upload(self, upload_id: str) -> list[PartRow]:
        """All parts of an upload, in the order of their arrival."""
        return self.all(PartRow.upload_id == upload_id)

    def delete_for_upload(self, upload_id: str) -> None:
        """Delete the parts of an upload that has ended."""
        self.session.execute(delete(PartRow).where(PartRow.upload_id == upload_id))


class JobRepository(Repository[JobRow]):
    """The jobs table."""

    row_type = JobRow

    def get(self, job_id: str, owner: str | None = None) -> JobRow | None:
        """A job by id; with ``owner`` only that owner's."""
        conditions = [JobRow.id == job_id]
        if owner is not None:
            conditions.append(JobRow.owner == owner)
        return self.first(*conditions)

    def page_of(
        self, owner: str, *, metadata: Mapping[str, str], without_metadata: bool, after: str | None, limit: int
    ) -> Page[JobRow]:
        """One page of an owner's jobs, newest first.

        Args:
            owner: Whose jobs.
            metadata: Key-value pairs that a job must have, all of them.
            without_metadata: Only jobs without any metadata.
            after: Id of the last job of the page before.
            limit: Maximum number of jobs.
        """
        by_metadata = _metadata_conditions(JobRow.user_metadata, metadata, without_metadata=without_metadata)
        return self.page([JobRow.owner == owner, *by_metadata], after=after, limit=limit)

    def update(self, job_id: str, **values: Any) -> None:
        """Set columns of one job."""
        self.session.execute(update(JobRow).where(JobRow.id == job_id).values(**values))

    def delete(self, job_id: str) -> None:
        """Delete a job with its events and checkpoints; the caller deletes its folder after the commit."""
        for table in (EventRow, CheckpointRow):
            self.session.execute(delete(table).where(table.job_id == job_id))
        self.session.execute(delete(JobRow).where(JobRow.id == job_id))

    def open(self) -> list[JobRow]:
        """Jobs that need the supervisor: not ended, or with a trainer that must still be stopped; oldest first."""
        return self.all(or_(JobRow.status.not_in({*TERMINAL_STATUSES, "paused"}), JobRow.has_trainer))

    def count_open(self, owner: str) -> int:
        """How many jobs of this owner have not ended."""
        query = select(func.count()).where(JobRow.owner == owner, JobRow.status.not_in(TERMINAL_STATUSES))
        return self.session.execute(query).scalar_one()

    def count_by_status(self) -> dict[str, int]:
        """How many jobs of all owners have each status."""
        rows = self.session.execute(select(JobRow.status, func.count()).group_by(JobRow.status))
        return {status: count for status, count in rows}

    def has_base(self, owner: str, base: str) -> bool:
        """Whether a job of an owner trains this base model."""
        return self.first(JobRow.owner == owner, JobRow.base == base) is not None

    def by_model(self, name: str) -> JobRow | None:
        """The job that made a model that was not deleted."""
        return self.first(JobRow.fine_tuned_model == name, ~JobRow.deleted)

    def models(self, owner: str) -> list[JobRow]:
        """The jobs of an owner whose models are served, oldest first."""
        return self.all(JobRow.fine_tuned_model.is_not(None), JobRow.owner == owner, ~JobRow.deleted)


class EventRepository(Repository[EventRow]):
    """The events table."""

    row_type = EventRow

    def page_of(self, job_id: str, *, after: str | None, limit: int) -> Page[EventRow]:
        """One page of a job's events, newest first."""
        return self.page([EventRow.job_id == job_id], after=after, limit=limit)

    def append_message(self, job_id: str, message: str, *, level: str = "info") -> None:
        """Add an event of the server itself to a job."""
        event_id = new_id("ftevent-")
        self.add(EventRow(event_id, job_id, created_at=now(), level=level, type="message", message=message))


class CheckpointRepository(Repository[CheckpointRow]):
    """The checkpoints table."""

    row_type = CheckpointRow

    def page_of(self, job_id: str, *, after: str | None, limit: int) -> Page[CheckpointRow]:
        """One page of a job's checkpoints whose files are kept, highest step first."""
        conditions = [CheckpointRow.job_id == job_id, ~CheckpointRow.removed]
        return self.page(conditions, after=after, limit=limit, order=CheckpointRow.step)

    def for_job(self, job_id: str) -> list[CheckpointRow]:
        """All checkpoints that a job ever made, in the order they were made."""
        return self.all(CheckpointRow.job_id == job_id)

    def by_model(self, name: str) -> CheckpointRow | None:
        """A checkpoint whose files are kept, by its model name."""
        return self.first(CheckpointRow.model_name == name, ~CheckpointRow.removed)

    def remove(self, checkpoint_id: str) -> None:
        """Record that a checkpoint's files are not kept any more."""
        self.session.execute(update(CheckpointRow).where(CheckpointRow.id == checkpoint_id).values(removed=True))


class PermissionRepository(Repository[PermissionRow]):
    """The permissions table."""

    row_type = PermissionRow

    def find(self, checkpoint: str, project_id: str) -> PermissionRow | None:
        """A project's permission for a checkpoint."""
        return self.first(PermissionRow.checkpoint == checkpoint, PermissionRow.project_id == project_id)

    def get(self, checkpoint: str, permission_id: str) -> PermissionRow | None:
        """A permission by its id."""
        return self.first(PermissionRow.checkpoint == checkpoint, PermissionRow.id == permission_id)

    def page_of(
        self, checkpoint: str, *, project_id: str | None, after: str | None, limit: int, oldest_first: bool
    ) -> Page[PermissionRow]:
        """One page of a checkpoint's permissions."""
        conditions: list[ColumnElement[bool]] = [PermissionRow.checkpoint == checkpoint]
        if project_id is not None:
            conditions.append(PermissionRow.project_id == project_id)
        return self.page(conditions, after=after, limit=limit, oldest_first=oldest_first)

    def delete(self, permission_id: str) -> None:
        """Revoke a permission."""
        self.session.execute(delete(PermissionRow).where(PermissionRow.id == permission_id))


class CompletionRepository(Repository[CompletionRow]):
    """The table of stored chat completions."""

    row_type = CompletionRow

    def get(self, owner: str, completion_id: str) -> CompletionRow | None:
        """One owner's stored completion."""
        return self.first(CompletionRow.id == completion_id, CompletionRow.owner == owner)

    def update(self, completion_id: str, **values: Any) -> None:
        """Set columns of one completion."""
        self.session.execute(update(CompletionRow).where(CompletionRow.id == completion_id).values(**values))

    def delete(self, completion_id: str) -> None:
        """Delete a completion."""
        self.session.execute(delete(CompletionRow).where(CompletionRow.id == completion_id))

    def delete_oldest(self, owner: str, *, max_rows: int, max_bytes: int) -> None:
        """Delete an owner's oldest completions until the rest is within the limits."""
        query = select(func.count(), func.coalesce(func.sum(CompletionRow.bytes), 0))
        rows, size = self.session.execute(query.where(CompletionRow.owner == owner)).one()
        oldest = select(CompletionRow.seq, CompletionRow.bytes).where(CompletionRow.owner == owner)
        last_deleted = None
        for seq, row_bytes in self.session.execute(oldest.order_by(CompletionRow.seq)):
            if rows <= max_rows and size <= max_bytes:
                break
            rows, size, last_deleted = rows - 1, size - row_bytes, seq
        if last_deleted is not None:
            condition = (CompletionRow.owner == owner, CompletionRow.seq <= last_deleted)
            self.session.execute(delete(CompletionRow).where(*condition))

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
        """One page of an owner's stored completions."""
        conditions: list[ColumnElement[bool]] = [CompletionRow.owner == owner]
        if model is not None:
            conditions.append(CompletionRow.model == model)
        conditions += _metadata_conditions(CompletionRow.user_metadata, metadata, without_metadata=without_metadata)
        return self.page(conditions, after=after, limit=limit, oldest_first=oldest_first)


class DeletionRepository:
    """The table of paths whose bytes may be deleted."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def add(self, path: str) -> None:
        """Record a path, unless it is recorded already."""
        self.session.merge(DeletionRow(path))
        self.session.flush()

    def all(self) -> list[str]:
        """All recorded paths."""
        return list(self.session.scalars(select(DeletionRow.path)))

    def delete(self, paths: Sequence[str]) -> None:
        """Forget deletions that are done."""
        for path in paths:
            self.session.execute(delete(DeletionRow).where(DeletionRow.path == path))


class IdempotencyRepository:
    """The table of responses given under an Idempotency-Key."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def add(self, row: IdempotencyRow) -> None:
        """Insert a row."""
        self.session.add(row)
        self.session.flush()

    def find(self, owner: str, key: str) -> IdempotencyRow | None:
        """The response under this key."""
        return self.session.get(IdempotencyRow, (owner, key))

    def delete_before(self, moment: int) -> None:
        """Delete responses that are older than the promised time."""
        self.session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < moment))
