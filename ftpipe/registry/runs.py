"""Runs of the pipeline, and the key by which a repeated request is the same run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

from ftpipe.errors import LocalStateError, UsageError
from ftpipe.records import CostEstimate, Dataset, Job, Model, Record, Run, RunSpec, RunState, UploadedFile
from ftpipe.registry.audit_log import AuditedChange
from ftpipe.registry.base import Repository, from_json, insert_new
from ftpipe.registry.database import database_location, read_transaction
from ftpipe.registry.jobs import JobRepository
from ftpipe.registry.models import ModelRepository
from ftpipe.registry.tables import (
    alias_history_table,
    aliases_table,
    costs_table,
    events_table,
    jobs_table,
    models_table,
    runs_table,
)

R = TypeVar("R", bound=Record)
_IS_KEPT = runs_table.c.state != RunState.DELETED.value


class RunRepository(Repository):
    """The runs of the registry, with their jobs and models."""

    def __init__(
        self, engine: sa.Engine, clock: Callable[[], float], *, jobs: JobRepository, models: ModelRepository
    ) -> None:
        super().__init__(engine, clock)
        self._jobs = jobs
        self._models = models

    def start(self, run: Run, *, key: str, ordinal: int, is_latest: bool = True) -> Run:
        """Save a new run, or return the one that has this key and ordinal already.

        Args:
            run: The run.
            key: The same for the same data and parameters.
            ordinal: Number among the runs of that key.
            is_latest: Whether commands without a run's name mean this one from now on.
        """
        with self.audited_transaction("run started") as change:
            connection = change.connection
            change.track(runs_table, runs_table.c.key == key, runs_table.c.ordinal == ordinal)
            following = sa.select(sa.func.coalesce(sa.func.max(runs_table.c.sequence), 0) + 1).scalar_subquery()
            sequence = following if is_latest else 0
            values = {"key": key, "ordinal": ordinal, "sequence": sequence, **_run_values(run)}
            insert_new(connection, runs_table, values)
            row = self._row(connection, runs_table.c.key == key, runs_table.c.ordinal == ordinal)
        return run if row["id"] == run.id else self._to_run(row)

    def with_key(self, key: str) -> list[tuple[int, Run]]:
        """Ordinal and run of every run with these data and parameters, oldest first."""
        with read_transaction(self.engine) as connection:
            query = sa.select(runs_table).where(runs_table.c.key == key).order_by(runs_table.c.ordinal)
            rows = connection.execute(query).mappings().all()
        return [(row["ordinal"], self._to_run(row)) for row in rows]

    def operation_key(self, run: Run, kind: str) -> str:
        """The idempotency key of a paid call: the same for the same data, parameters, endpoint and ordinal."""
        with read_transaction(self.engine) as connection:
            row = self._row(connection, runs_table.c.id == run.id)
        if row is None:
            raise LocalStateError(
                f"run {run.id} is not in {database_location(self.engine)}", "`ftpipe status` lists the runs"
            )
        return hashlib.sha256(f"{kind}\n{row['key']}\n{row['ordinal']}".encode()).hexdigest()

    def save(self, run: Run) -> Run:
        """Save the state of a run; a registered run stays registered, even if the caller read it before that."""
        columns = runs_table.c
        is_open = (columns.id == run.id) & (columns.state != RunState.REGISTERED.value)
        with self.audited_transaction(f"run {run.state.value}") as change:
            change.track(runs_table, columns.id == run.id)
            change.connection.execute(runs_table.update().where(is_open).values(**_run_values(run)))
        return run

    def get(self, run_id: str) -> Run:
        """The run with that id.

        Raises:
            UsageError: There is no such run.
        """
        with read_transaction(self.engine) as connection:
            row = self._row(connection, runs_table.c.id == run_id)
        if row is None:
            raise UsageError(
                f"there is no run {run_id!r} in {database_location(self.engine)}",
                "list the runs with `ftpipe jobs list`",
            )
        return self._to_run(row)

    def recent(self, limit: int | None = 50) -> list[Run]:
        """The latest runs, newest first; without those whose job or model was deleted."""
        with read_transaction(self.engine) as connection:
            order = (runs_table.c.sequence.desc(), runs_table.c.created_at.desc())
            query = sa.select(runs_table).where(_IS_KEPT).order_by(*order).limit(limit)
            rows = connection.execute(query).mappings().all()
        return [self._to_run(row) for row in rows]

    def open(self, limit: int) -> list[Run]:
        """The latest runs whose job had not ended when it was read last, newest first."""
        same = (runs_table.c.endpoint == jobs_table.c.endpoint) & (runs_table.c.job_id == jobs_table.c.id)
        query = (
            sa.select(runs_table)
            .join(jobs_table, same)
            .where(runs_table.c.state == RunState.CREATED.value)
            .order_by(runs_table.c.sequence.desc(), runs_table.c.created_at.desc())
            .limit(limit)
        )
        with read_transaction(self.engine) as connection:
            rows = connection.execute(query).mappings().all()
        return [self._to_run(row) for row in rows]

    def latest(self) -> Run | None:
        """The newest run; ``None`` if there is no run yet."""
        return next(iter(self.recent(limit=1)), None)

    def find(self, name: str) -> Run | None:
        """The run with that run id, job id or model id."""
        column = runs_table.c
        with read_transaction(self.engine) as connection:
            match = (column.id == name) | (column.job_id == name) | (column.model_id == name)
            query = sa.select(runs_table).where(match, _IS_KEPT).order_by(column.sequence.desc())
            row = connection.execute(query).mappings().first()
        return self._to_run(row) if row else None

    def is_deleted(self, endpoint: str, job_id: str) -> bool:
        """Whether the user has deleted this job, or its model, from the registry."""
        column = runs_table.c
        with read_transaction(self.engine) as connection:
            match = (column.endpoint == endpoint) & (column.job_id == job_id) & ~_IS_KEPT
            return connection.execute(sa.select(column.id).where(match)).first() is not None

    def _row(self, connection: sa.Connection, *where: sa.ColumnElement[bool]) -> Any:  # noqa: ANN401  # a row of any shape
        return connection.execute(sa.select(runs_table).where(*where)).mappings().first()

    def _to_run(self, row: Any) -> Run:  # noqa: ANN401  # a row of any shape
        job = self._jobs.get(row["job_id"]) if row["job_id"] else None
        return to_run(row, job, self._models.find(row["endpoint"], row["model_id"]) if row["model_id"] else None)

    def register(self, model: Model, run: Run, *, price_row: str) -> Run:
        """Save model, cost and the registered run in one transaction; a second call changes nothing.

        Args:
            model: The model with its lineage.
            run: The run that trained it.
            price_row: JSON of the price that the costs were computed with.
        """
        registered = run.model_copy(update={"state": RunState.REGISTERED, "model": model})
        with self.audited_transaction("model registered") as change:
            connection = change.connection
            self._models.insert(connection, model)
            self._models.save_cost(connection, model, price_row)
            models, costs = models_table.c, costs_table.c
            change.track(models_table, models.endpoint == model.endpoint, models.id == model.id)
            change.track(costs_table, costs.endpoint == model.endpoint, costs.job_id == model.job_id)
            change.track(runs_table, runs_table.c.id == run.id)
            connection.execute(runs_table.update().where(runs_table.c.id == run.id).values(**_run_values(registered)))
        return registered

    def delete_model(self, model: Model) -> None:
        """Delete a model and its aliases, whose histories say so; its cost and its evaluations stay.

        The run that trained it is marked as deleted, so that the same data and parameters can be trained again.
        """
        models, runs, aliases = models_table.c, runs_table.c, aliases_table.c
        with self.audited_transaction("model deleted") as change:
            connection, now = change.connection, self.clock()
            query = sa.select(aliases.alias).where(aliases.endpoint == model.endpoint, aliases.model_id == model.id)
            for alias in connection.execute(query).scalars().all():
                move = {"from_model": model.id, "to_model": "", "reason": "the model was deleted", "moved_at": now}
                connection.execute(alias_history_table.insert().values(alias=alias, **move))
                history = alias_history_table.c
                change.track(alias_history_table, history.alias == alias, history.moved_at == now)
                change.track_deleted(aliases_table, alias=alias)
                connection.execute(aliases_table.delete().where(aliases.alias == alias))
            change.track_deleted(models_table, endpoint=model.endpoint, id=model.id)
            connection.execute(models_table.delete().where(models.endpoint == model.endpoint, models.id == model.id))
            self._mark_deleted(change, runs.endpoint == model.endpoint, runs.model_id == model.id)

    def delete_job(self, job: Job) -> None:
        """Delete a job and its events, and mark its run as deleted; what it cost stays."""
        jobs, events, runs = jobs_table.c, events_table.c, runs_table.c
        with self.audited_transaction("job deleted") as change:
            connection = change.connection
            of_job = (events.endpoint == job.endpoint, events.job_id == job.id)
            for event_id in connection.execute(sa.select(events.id).where(*of_job)).scalars().all():
                change.track_deleted(events_table, endpoint=job.endpoint, job_id=job.id, id=event_id)
            connection.execute(events_table.delete().where(*of_job))
            change.track_deleted(jobs_table, endpoint=job.endpoint, id=job.id)
            connection.execute(jobs_table.delete().where(jobs.endpoint == job.endpoint, jobs.id == job.id))
            self._mark_deleted(change, runs.endpoint == job.endpoint, runs.job_id == job.id)

    def _mark_deleted(self, change: AuditedChange, *where: sa.ColumnElement[bool]) -> None:
        ids = list(change.connection.execute(sa.select(runs_table.c.id).where(*where)).scalars())
        changed = runs_table.c.id.in_(ids)
        values = {"state": RunState.DELETED.value, "model_id": None}
        change.connection.execute(runs_table.update().where(changed).values(**values))
        change.track(runs_table, changed)


def to_run(row: Any, job: Job | None, model: Model | None) -> Run:  # noqa: ANN401  # a row of any shape
    """The run of a row with its job and model."""
    return Run(
        id=row["id"],
        spec=from_json(RunSpec, row["spec"]),
        endpoint=row["endpoint"],
        state=_state(row["state"]),
        created_at=int(row["created_at"]),
        dataset_sha256=row["dataset_sha256"],
        validation_sha256=row["validation_sha256"],
        dataset=load_record(Dataset, row["dataset"]),
        validation=load_record(Dataset, row["validation"]),
        cost=load_record(CostEstimate, row["cost"]),
        file=load_record(UploadedFile, row["file"]),
        validation_file=load_record(UploadedFile, row["validation_file"]),
        job=job,
        model=model,
        error=row["error"],
    )


def load_record(kind: type[R], text: str | None) -> R | None:
    """A record from its column; ``None`` if the column is empty."""
    return from_json(kind, text) if text else None


def _state(word: str) -> RunState:
    try:
        return RunState(word)
    except ValueError as error:
        raise LocalStateError(
            f"the registry holds a run in the state {word!r}", "`ftpipe doctor --repair` rebuilds damaged rows"
        ) from error


def _dump(record: Record | None) -> str | None:
    return record.model_dump_json() if record is not None else None


def _run_values(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "endpoint": run.endpoint,
        "state": run.state.value,
        "spec": run.spec.model_dump_json(),
        "dataset_sha256": run.dataset_sha256,
        "validation_sha256": run.validation_sha256,
        "dataset": _dump(run.dataset),
        "validation": _dump(run.validation),
        "cost": _dump(run.cost),
        "file": _dump(run.file),
        "validation_file": _dump(run.validation_file),
        "job_id": run.job.id if run.job else None,
        "model_id": run.model.id if run.model else None,
        "error": run.error,
        "created_at": float(run.created_at),
    }
