"""What a job leaves behind while it runs: events and checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import update

from ftpipe.server.clock import now
from ftpipe.server.store import schema
from ftpipe.server.store.paging import Page, Repository
from ftpipe.server.store.rows import CheckpointRow, EventRow
from ftpipe.server.wire import new_id

if TYPE_CHECKING:
    from ftpipe.server.store.database import Transaction


class EventRepository(Repository[EventRow]):
    """The events table."""

    table = schema.events
    kind = EventRow

    def page_of(self, job_id: str, *, after: str | None, limit: int) -> Page[EventRow]:
        """One page of a job's events, newest first."""
        return self.page([schema.events.c.job_id == job_id], after=after, limit=limit)


class CheckpointRepository(Repository[CheckpointRow]):
    """The checkpoints table."""

    table = schema.checkpoints
    kind = CheckpointRow

    def page_of(self, job_id: str, *, after: str | None, limit: int) -> Page[CheckpointRow]:
        """One page of a job's kept checkpoints, highest step first."""
        where = [schema.checkpoints.c.job_id == job_id, schema.checkpoints.c.removed.is_(False)]
        return self.page(where, after=after, limit=limit, order=schema.checkpoints.c.step)

    def for_job(self, job_id: str) -> list[CheckpointRow]:
        """All checkpoints that a job ever made, in the order they were made."""
        return self.all(schema.checkpoints.c.job_id == job_id)

    def by_model(self, name: str) -> CheckpointRow | None:
        """A kept checkpoint by the name that it answers to."""
        return self.one(schema.checkpoints.c.model_name == name, schema.checkpoints.c.removed.is_(False))

    def remove(self, checkpoint_id: str) -> None:
        """Note that a checkpoint's files are not kept any more."""
        query = update(schema.checkpoints).where(schema.checkpoints.c.id == checkpoint_id)
        self.conn.execute(query.values(removed=True))


def append_event(tx: Transaction, job_id: str, message: str, *, level: str = "info") -> None:
    """Add an event of the server's own to a job."""
    row = EventRow(id=new_id("ftevent-"), job_id=job_id, created_at=now(), level=level, type="message", message=message)
    tx.events.add(row)
