"""Find runs by text and state, a page at a time; the database searches, so that 10,000 runs are no wait."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from ftpipe.records import Job, Model, Run, RunState
from ftpipe.registry.database import read_transaction
from ftpipe.registry.runs import load_record, to_run
from ftpipe.registry.tables import jobs_table, models_table, runs_table

MAX_SEARCH_CHARACTERS = 200


class RunFilter(StrEnum):
    """Groups of states, as people look for them."""

    ALL = "all"
    RUNNING = "running"
    """Also waiting and paused."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    NOT_STARTED = "not started"
    """There is no job yet."""


_STATUS = sa.func.coalesce(jobs_table.c.status, runs_table.c.state)
_ENDED = ("succeeded", "failed", "cancelled", RunState.REGISTERED.value)
_CONDITIONS: dict[RunFilter, sa.ColumnElement[bool]] = {
    RunFilter.ALL: sa.true(),
    RunFilter.RUNNING: runs_table.c.job_id.is_not(None) & _STATUS.not_in(_ENDED),
    RunFilter.SUCCEEDED: _STATUS.in_(("succeeded", RunState.REGISTERED.value)),
    RunFilter.FAILED: _STATUS == "failed",
    RunFilter.CANCELLED: _STATUS == "cancelled",
    RunFilter.NOT_STARTED: _STATUS.in_((RunState.PREPARED.value, RunState.UPLOADED.value)),
}


@dataclass(frozen=True, slots=True)
class RunPage:
    """One page of a search."""

    runs: list[Run]
    """With job and model."""
    total: int
    """Runs that match."""


def search_runs(
    engine: sa.Engine, *, text: str = "", state: RunFilter = RunFilter.ALL, offset: int = 0, limit: int = 50
) -> RunPage:
    """The runs that match, newest first; without those whose job or model was deleted.

    Args:
        engine: The registry's database.
        text: A part of an id, or of the names of data, base model, suffix or tuned model, in any case.
        state: Their state.
        offset: Matching runs to leave out.
        limit: Maximum number of runs.
    """
    runs, jobs, models = runs_table, jobs_table, models_table
    tables = runs.outerjoin(jobs, (runs.c.endpoint == jobs.c.endpoint) & (runs.c.job_id == jobs.c.id))
    where = [runs.c.state != RunState.DELETED.value, _CONDITIONS[state]]
    if text:
        where.append(_matches(engine, text[:MAX_SEARCH_CHARACTERS]))
    counted = sa.select(sa.func.count()).select_from(tables).where(*where)
    # the page is chosen first, so that no row of another page is joined with its model
    page = (
        sa.select(runs.c.id)
        .select_from(tables)
        .where(*where)
        .order_by(runs.c.sequence.desc(), runs.c.created_at.desc(), runs.c.id)
        .limit(limit)
        .offset(offset)
    )
    model = (runs.c.endpoint == models.c.endpoint) & (runs.c.model_id == models.c.id)
    rows = (
        sa.select(runs, jobs.c.data.label("job_data"), models.c.data.label("model_data"))
        .select_from(tables.outerjoin(models, model))
        .where(runs.c.id.in_(page))
        .order_by(runs.c.sequence.desc(), runs.c.created_at.desc(), runs.c.id)
    )
    with read_transaction(engine) as connection:
        total = connection.execute(counted).scalar() or 0
        found = connection.execute(rows).mappings().all()
    runs_of_page = [
        to_run(row, load_record(Job, row["job_data"]), load_record(Model, row["model_data"])) for row in found
    ]
    return RunPage(runs_of_page, total)


def _matches(engine: sa.Engine, text: str) -> sa.ColumnElement[bool]:
    columns = runs_table.c
    # in a JSON document, quotes and backslashes are escaped
    in_json = json.dumps(text, ensure_ascii=False)[1:-1]
    names = [_json_text(engine, columns.spec, name) for name in ("data", "model", "suffix", "requested_model")]
    return sa.or_(
        *(column.icontains(text, autoescape=True) for column in (columns.id, columns.job_id, columns.model_id)),
        columns.spec.icontains(in_json, autoescape=True)
        & sa.or_(*(name.icontains(text, autoescape=True) for name in names)),
    )


def _json_text(engine: sa.Engine, column: sa.ColumnElement[str], key: str) -> sa.ColumnElement[str]:
    """A value of a JSON object in a text column, as text."""
    document: Any = sa.cast(column, sa.JSON) if engine.dialect.name == "postgresql" else sa.type_coerce(column, sa.JSON)
    value: sa.ColumnElement[str] = document[key].as_string()
    return value
