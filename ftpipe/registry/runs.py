"""Runs: what was asked, how far it has come, and the key that makes asking twice the same thing."""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import sqlalchemy as sa

from ftpipe.errors import LocalStateError, UsageError
from ftpipe.records import CostEstimate, Dataset, Model, Record, Run, RunSpec, RunState, UploadedFile
from ftpipe.registry import tables
from ftpipe.registry.base import from_json
from ftpipe.registry.database import read_transaction
from ftpipe.registry.jobs import JobRecords
from ftpipe.registry.models import ModelRecords

R = TypeVar("R", bound=Record)


class RunRecords(JobRecords, ModelRecords):
    """The runs that are remembered, with their jobs and models."""

    def start_run(self, run: Run, *, key: str, ordinal: int) -> Run:
        """Remember a new run, or give back the one that has this key and ordinal already."""
        with self.changing("run started") as change:
            connection = change.connection
            change.track(tables.runs, tables.runs.c.key == key, tables.runs.c.ordinal == ordinal)
            following = sa.select(sa.func.coalesce(sa.func.max(tables.runs.c.sequence), 0) + 1).scalar_subquery()
            values = {"key": key, "ordinal": ordinal, "sequence": following, **_run_values(run)}
            self.insert_new(connection, tables.runs, values)
            row = self._run_row(connection, tables.runs.c.key == key, tables.runs.c.ordinal == ordinal)
        return run if row["id"] == run.id else self._run(row)

    def runs_with_key(self, key: str) -> list[tuple[int, Run]]:
        """Ordinal and run of everything that was asked with these data and parameters, oldest first."""
        with read_transaction(self.engine) as connection:
            query = sa.select(tables.runs).where(tables.runs.c.key == key).order_by(tables.runs.c.ordinal)
            rows = connection.execute(query).mappings().all()
        return [(row["ordinal"], self._run(row)) for row in rows]

    def operation_key(self, run: Run, kind: str) -> str:
        """The idempotency key of a paid call: the same for the same data, parameters, endpoint and ordinal."""
        with read_transaction(self.engine) as connection:
            row = self._run_row(connection, tables.runs.c.id == run.id)
        if row is None:
            raise LocalStateError(f"run {run.id} is not in {self.place}", "`ftpipe status` lists the runs")
        return hashlib.sha256(f"{kind}\n{row['key']}\n{row['ordinal']}".encode()).hexdigest()

    def save_run(self, run: Run) -> Run:
        """Write down how far a run has come; a registered one is never taken back by who has looked before that."""
        known = tables.runs.c
        is_open = (known.id == run.id) & (known.state != RunState.REGISTERED.value)
        with self.changing(f"run {run.state.value}") as change:
            change.track(tables.runs, known.id == run.id)
            change.connection.execute(tables.runs.update().where(is_open).values(**_run_values(run)))
        return run

    def run(self, run_id: str) -> Run:
        """The run of that id.

        Raises:
            UsageError: There is none.
        """
        with read_transaction(self.engine) as connection:
            row = self._run_row(connection, tables.runs.c.id == run_id)
        if row is None:
            raise UsageError(f"there is no run {run_id!r} in {self.place}", "`ftpipe jobs list` shows what there is")
        return self._run(row)

    def runs(self, limit: int = 50) -> list[Run]:
        """The latest runs, newest first."""
        with read_transaction(self.engine) as connection:
            query = sa.select(tables.runs).order_by(tables.runs.c.sequence.desc()).limit(limit)
            rows = connection.execute(query).mappings().all()
        return [self._run(row) for row in rows]

    def latest_run(self) -> Run | None:
        """The newest run; ``None`` where there is none yet."""
        found = self.runs(limit=1)
        return found[0] if found else None

    def find_run(self, name: str) -> Run | None:
        """The run with that run id, job id or model id."""
        column = tables.runs.c
        with read_transaction(self.engine) as connection:
            match = (column.id == name) | (column.job_id == name) | (column.model_id == name)
            query = sa.select(tables.runs).where(match).order_by(column.sequence.desc())
            row = connection.execute(query).mappings().first()
        return self._run(row) if row else None

    def _run_row(self, connection: sa.Connection, *where: sa.ColumnElement[bool]) -> Any:  # noqa: ANN401 - a row of any shape
        return connection.execute(sa.select(tables.runs).where(*where)).mappings().first()

    def _run(self, row: Any) -> Run:  # noqa: ANN401 - a row of any shape
        return Run(
            id=row["id"],
            spec=from_json(RunSpec, row["spec"]),
            endpoint=row["endpoint"],
            state=_state(row["state"]),
            created_at=int(row["created_at"]),
            dataset_sha256=row["dataset_sha256"],
            validation_sha256=row["validation_sha256"],
            dataset=_load(Dataset, row["dataset"]),
            validation=_load(Dataset, row["validation"]),
            cost=_load(CostEstimate, row["cost"]),
            file=_load(UploadedFile, row["file"]),
            validation_file=_load(UploadedFile, row["validation_file"]),
            job=self.job(row["job_id"]) if row["job_id"] else None,
            model=self.model_at(row["endpoint"], row["model_id"]) if row["model_id"] else None,
            error=row["error"],
        )

    def register(self, model: Model, run: Run, *, price_row: str) -> Run:
        """Write model, cost and the end of the run in one transaction; doing it again changes nothing.

        Args:
            model: The model with its lineage.
            run: The run that it ends.
            price_row: JSON of the price that the costs were computed with.
        """
        done = run.model_copy(update={"state": RunState.REGISTERED, "model": model})
        with self.changing("model registered") as change:
            connection = change.connection
            self.write_model(connection, model)
            self.write_cost(connection, model, price_row)
            models, costs = tables.models.c, tables.costs.c
            change.track(tables.models, models.endpoint == model.endpoint, models.id == model.id)
            change.track(tables.costs, costs.endpoint == model.endpoint, costs.job_id == model.job_id)
            change.track(tables.runs, tables.runs.c.id == run.id)
            connection.execute(tables.runs.update().where(tables.runs.c.id == run.id).values(**_run_values(done)))
        return done


def _load(kind: type[R], text: str | None) -> R | None:
    return from_json(kind, text) if text else None


def _state(word: str) -> RunState:
    try:
        return RunState(word)
    except ValueError as error:
        raise LocalStateError(
            f"the registry holds a run in the state {word!r}", "`ftpipe doctor --repair` rebuilds what is damaged"
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
