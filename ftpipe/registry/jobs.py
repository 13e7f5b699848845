"""Jobs, their events and metrics, as their endpoints last described them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from ftpipe.records import Event, Job, TrainingMetrics
from ftpipe.registry import tables
from ftpipe.registry.base import RepositoryBase, from_json
from ftpipe.registry.database import read_transaction


class JobRecords(RepositoryBase):
    """The jobs that are remembered."""

    def save_job(self, job: Job, *, run_id: str | None) -> None:
        """Remember how a job was last described."""
        values = {"status": job.status, "data": job.model_dump_json(), "updated_at": self.clock()}
        if run_id is not None:
            values["run_id"] = run_id
        table = tables.jobs.c
        with self.changing("job seen") as change:
            change.track(tables.jobs, table.endpoint == job.endpoint, table.id == job.id)
            self._upsert(change.connection, tables.jobs, {"endpoint": job.endpoint, "id": job.id}, values)

    def job(self, job_id: str) -> Job | None:
        """The job of that id, as it was last described."""
        with read_transaction(self.engine) as connection:
            data = connection.execute(sa.select(tables.jobs.c.data).where(tables.jobs.c.id == job_id)).scalar()
        return from_json(Job, data) if data else None

    def jobs(self, limit: int = 100) -> list[Job]:
        """The jobs that are remembered, newest first."""
        with read_transaction(self.engine) as connection:
            query = sa.select(tables.jobs.c.data).order_by(tables.jobs.c.updated_at.desc()).limit(limit)
            rows = connection.execute(query).scalars().all()
        return sorted((from_json(Job, data) for data in rows), key=lambda job: -job.created_at)

    def save_events(self, job: Job, events: Iterable[Event]) -> None:
        """Remember events; those that are known stay as they are."""
        table = tables.events
        with self.changing("events heard") as change:
            connection = change.connection
            known = set(self._event_ids(connection, job))
            fresh = [event for event in events if event.id not in known]
            for position, event in enumerate(fresh, start=len(known)):
                values = {"created_at": event.created_at, "position": position, "data": event.model_dump_json()}
                keys = {"endpoint": job.endpoint, "job_id": job.id, "id": event.id}
                self.insert_new(connection, table, keys | values)
            if fresh:
                change.track(
                    table,
                    table.c.endpoint == job.endpoint,
                    table.c.job_id == job.id,
                    table.c.id.in_([event.id for event in fresh]),
                )

    def events(self, job_id: str) -> list[Event]:
        """The events of a job that are remembered, oldest first."""
        table = tables.events
        with read_transaction(self.engine) as connection:
            query = (
                sa.select(table.c.data).where(table.c.job_id == job_id).order_by(table.c.created_at, table.c.position)
            )
            return [from_json(Event, data) for data in connection.execute(query).scalars()]

    def metrics(self, job_id: str) -> list[TrainingMetrics]:
        """The metrics of a job by step, from its events."""
        return metrics_of(self.events(job_id))

    def _event_ids(self, connection: sa.Connection, job: Job) -> list[str]:
        table = tables.events
        query = sa.select(table.c.id).where(table.c.endpoint == job.endpoint, table.c.job_id == job.id)
        return list(connection.execute(query).scalars())


def metrics_of(events: Iterable[Event]) -> list[TrainingMetrics]:
    """The metrics that events carry, one per step, later values of a step laid over earlier ones."""
    by_step: dict[int, dict[str, Any]] = {}
    for event in events:
        step = event.data.get("step")
        if event.type != "metrics" or not isinstance(step, (int, float)) or isinstance(step, bool):
            continue
        row = by_step.setdefault(int(step), {})
        for name in TrainingMetrics.model_fields:
            value = event.data.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf"):
                row[name] = value
    return [TrainingMetrics(**{**row, "step": step}) for step, row in sorted(by_step.items())]
