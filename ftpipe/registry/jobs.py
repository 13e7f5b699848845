"""Jobs with their events and metrics, as their endpoints last reported them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa

from ftpipe.records import Event, Job, TrainingMetrics
from ftpipe.registry.base import Repository, from_json, insert_new, upsert
from ftpipe.registry.database import read_transaction
from ftpipe.registry.tables import events_table, jobs_table

READ_ROWS = 5000
"""Rows of events that are read at once."""


@dataclass(frozen=True, slots=True)
class MetricEvent:
    """The numbers of one event; much faster to read than its record."""

    position: int
    """Among the events of its job."""
    step: int
    values: Mapping[str, float]
    """Finite numbers by their names, also those that ``TrainingMetrics`` does not have."""


class JobRepository(Repository):
    """The jobs of the registry."""

    def save(self, job: Job, *, run_id: str | None) -> None:
        """Save a job as it was last reported."""
        values = {"status": job.status, "data": job.model_dump_json(), "updated_at": self.clock()}
        if run_id is not None:
            values["run_id"] = run_id
        table = jobs_table.c
        with self.audited_transaction("job saved") as change:
            change.track(jobs_table, table.endpoint == job.endpoint, table.id == job.id)
            upsert(change.connection, jobs_table, {"endpoint": job.endpoint, "id": job.id}, values)

    def get(self, job_id: str) -> Job | None:
        """The job with that id, as it was last reported."""
        with read_transaction(self.engine) as connection:
            data = connection.execute(sa.select(jobs_table.c.data).where(jobs_table.c.id == job_id)).scalar()
        return from_json(Job, data) if data else None

    def recent(self, limit: int = 100) -> list[Job]:
        """The latest jobs, newest first."""
        with read_transaction(self.engine) as connection:
            query = sa.select(jobs_table.c.data).order_by(jobs_table.c.updated_at.desc()).limit(limit)
            rows = connection.execute(query).scalars().all()
        return sorted((from_json(Job, data) for data in rows), key=lambda job: -job.created_at)

    def save_events(self, job: Job, events: Iterable[Event]) -> None:
        """Save events; events that are saved already stay as they are."""
        table = events_table
        with self.audited_transaction("events saved") as change:
            connection = change.connection
            known = set(self._event_ids(connection, job))
            fresh = [event for event in events if event.id not in known]
            for position, event in enumerate(fresh, start=len(known)):
                values = {"created_at": event.created_at, "position": position, "data": event.model_dump_json()}
                keys = {"endpoint": job.endpoint, "job_id": job.id, "id": event.id}
                insert_new(connection, table, keys | values)
            if fresh:
                change.track(
                    table,
                    table.c.endpoint == job.endpoint,
                    table.c.job_id == job.id,
                    table.c.id.in_([event.id for event in fresh]),
                )

    def events(self, job_id: str) -> list[Event]:
        """The saved events of a job, oldest first."""
        table = events_table
        with read_transaction(self.engine) as connection:
            query = (
                sa.select(table.c.data).where(table.c.job_id == job_id).order_by(table.c.created_at, table.c.position)
            )
            return [from_json(Event, data) for data in connection.execute(query).scalars()]

    def metrics(self, job_id: str) -> list[TrainingMetrics]:
        """The metrics of a job by step, from its events."""
        return metrics_of(self.events(job_id))

    def metric_events(self, job: Job, *, after: int = -1) -> Iterator[MetricEvent]:
        """The metrics of a job's events in the order in which they were saved.

        Args:
            job: The job.
            after: Position of the last event that is known.
        """
        table = events_table.c
        query = (
            sa.select(table.position, table.data)
            .where(table.endpoint == job.endpoint, table.job_id == job.id, table.position > after)
            .order_by(table.position)
        )
        with read_transaction(self.engine) as connection:
            for position, data in connection.execution_options(yield_per=READ_ROWS).execute(query):
                event = _metric_event(position, data)
                if event is not None:
                    yield event

    def recent_events(self, job: Job, *, limit: int, before: int | None = None) -> list[tuple[int, Event]]:
        """Events of a job with their positions, newest first, without those that only carry metrics.

        Args:
            job: The job.
            limit: Maximum number.
            before: Position of the oldest event that is shown already.
        """
        table = events_table.c
        query = (
            sa.select(table.position, table.data)
            .where(
                table.endpoint == job.endpoint,
                table.job_id == job.id,
                table.data.not_like('%"type":"metrics"%'),
                *([] if before is None else [table.position < before]),
            )
            .order_by(table.position.desc())
            .limit(limit)
        )
        with read_transaction(self.engine) as connection:
            return [(position, from_json(Event, data)) for position, data in connection.execute(query)]

    def _event_ids(self, connection: sa.Connection, job: Job) -> list[str]:
        table = events_table
        query = sa.select(table.c.id).where(table.c.endpoint == job.endpoint, table.c.job_id == job.id)
        return list(connection.execute(query).scalars())


def _metric_event(position: int, data: str) -> MetricEvent | None:
    """The numbers of an event; ``None`` if it has none, or cannot be read."""
    try:
        event = orjson.loads(data)
        if event["type"] != "metrics":
            return None
        numbers = {
            name: value
            for name, value in event["data"].items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
        }
        return MetricEvent(position, int(numbers["step"]), numbers)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def metrics_of(events: Iterable[Event]) -> list[TrainingMetrics]:
    """The metrics in events, one record per step; of several values for a step the latest counts."""
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
