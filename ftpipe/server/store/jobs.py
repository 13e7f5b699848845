"""Jobs, and the models that came out of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, insert, or_, select, update

from ftpipe.server.store import schema
from ftpipe.server.store.paging import Page, Repository
from ftpipe.server.store.rows import JobRow

TERMINAL_STATUSES = ("succeeded", "failed", "cancelled")


class JobRepository(Repository[JobRow]):
    """The jobs table."""

    table = schema.jobs
    kind = JobRow

    def create(self, row: JobRow) -> None:
        """Insert a job together with its metadata pairs, so that it can be found by them."""
        self.add(row)
        pairs = [{"job_id": row.id, "key": key, "value": value} for key, value in (row.pairs or {}).items()]
        if pairs:
            self.conn.execute(insert(schema.job_pairs), pairs)

    def get(self, job_id: str, owner: str | None = None) -> JobRow | None:
        """A job by id; with ``owner`` only that owner's."""
        where = [schema.jobs.c.id == job_id]
        if owner is not None:
            where.append(schema.jobs.c.owner == owner)
        return self.one(*where)

    def page_of(
        self, owner: str, *, after: str | None, limit: int, pairs: Mapping[str, str] | None, bare: bool
    ) -> Page[JobRow]:
        """One page of an owner's jobs, newest first.

        Args:
            owner: Whose jobs.
            after: Id of the last job of the page before.
            limit: Most jobs to return.
            pairs: Metadata that a job must have, all of it.
            bare: Only jobs without any metadata.
        """
        where = [schema.jobs.c.owner == owner]
        of_job = schema.job_pairs.c.job_id == schema.jobs.c.id
        for key, value in (pairs or {}).items():
            same = (schema.job_pairs.c.key == key, schema.job_pairs.c.value == value)
            where.append(select(schema.job_pairs.c.job_id).where(of_job, *same).exists())
        if bare:
            where.append(~select(schema.job_pairs.c.job_id).where(of_job).exists())
        return self.page(where, after=after, limit=limit)

    def update(self, job_id: str, **values: Any) -> None:
        """Set columns of one job."""
        self.conn.execute(update(schema.jobs).where(schema.jobs.c.id == job_id).values(**values))

    def open(self) -> list[JobRow]:
        """Jobs that need the supervisor: not ended, or with a trainer that must still be ended; oldest first."""
        idle = (*TERMINAL_STATUSES, "paused")
        return self.all(or_(schema.jobs.c.status.not_in(idle), schema.jobs.c.holds.is_(True)))

    def count_open(self, owner: str) -> int:
        """How many jobs of this owner have not ended."""
        query = select(func.count()).where(schema.jobs.c.owner == owner, schema.jobs.c.status.not_in(TERMINAL_STATUSES))
        return self.conn.execute(query).scalar_one()

    def by_model(self, name: str) -> JobRow | None:
        """The job that made a model that was not deleted."""
        return self.one(schema.jobs.c.fine_tuned_model == name, schema.jobs.c.deleted.is_(False))

    def models(self, owner: str) -> list[JobRow]:
        """The jobs of an owner whose models answer, oldest first."""
        made = schema.jobs.c.fine_tuned_model.is_not(None)
        return self.all(made, schema.jobs.c.owner == owner, schema.jobs.c.deleted.is_(False))
