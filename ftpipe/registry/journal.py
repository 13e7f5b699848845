"""The journal of paid calls: the intent is on disk before the call, and its outcome after it.

::

    intended ──> confirmed            the endpoint answered with an id
       │  └────> rejected             certainly not executed; a new attempt is another intent
       └───────> unknown ──> confirmed | rejected      after listing the jobs at the endpoint
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from enum import StrEnum

import sqlalchemy as sa

from ftpipe.errors import LocalStateError
from ftpipe.records import Record
from ftpipe.registry.base import audited_transaction
from ftpipe.registry.database import read_transaction
from ftpipe.registry.tables import jobs_table, operations_table


class OperationState(StrEnum):
    """What is known about a paid call."""

    INTENDED = "intended"
    UNKNOWN = "unknown"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"


class Operation(Record):
    """One paid call."""

    key: str
    """Idempotency key: the same for every attempt at the same thing."""
    run_id: str
    kind: str
    endpoint: str
    request_digest: str
    state: OperationState
    attempt: int
    remote_id: str | None = None
    sent_at: float | None = None
    """UTC Unix seconds at which the last attempt's intent was committed."""
    resolved_at: float | None = None
    estimated_cost: float | None = None
    detail: str = ""
    listed_before: tuple[str, ...] = ()
    """Jobs of the same request that the endpoint listed before the first attempt: none of them is its job."""


class Journal:
    """The journal, in the same database as the registry."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock

    def find(self, key: str) -> Operation | None:
        """The operation with that key, if there is one."""
        with read_transaction(self._engine) as connection:
            row = (
                connection.execute(sa.select(operations_table).where(operations_table.c.key == key)).mappings().first()
            )
        return Operation(**{**row, "listed_before": json.loads(row["listed_before"] or "[]")}) if row else None

    def jobs_of_other_runs(self, endpoint: str, *, run_id: str) -> set[str]:
        """Jobs at an endpoint that belong to other runs of this registry, so that this run does not adopt them."""
        from_calls = sa.select(operations_table.c.remote_id).where(
            operations_table.c.endpoint == endpoint,
            operations_table.c.run_id != run_id,
            operations_table.c.remote_id.is_not(None),
        )
        from_jobs = sa.select(jobs_table.c.id).where(jobs_table.c.endpoint == endpoint, jobs_table.c.run_id != run_id)
        with read_transaction(self._engine) as connection:
            return {*connection.execute(from_calls).scalars(), *connection.execute(from_jobs).scalars()}

    def record_intent(
        self,
        *,
        key: str,
        run_id: str,
        kind: str,
        endpoint: str,
        request_digest: str,
        estimated_cost: float | None = None,
        listed_before: Iterable[str] = (),
    ) -> Operation:
        """Commit the intent to make a call; it is on disk when this returns.

        ``listed_before`` is saved for the first attempt only: a job that is listed later may be that attempt's.

        Raises:
            LocalStateError: A call with that key was confirmed, or the key belongs to another request.
        """
        with audited_transaction(self._engine, f"{kind} intended", self._clock) as change:
            connection = change.connection
            change.track(operations_table, operations_table.c.key == key)
            row = (
                connection.execute(sa.select(operations_table).where(operations_table.c.key == key)).mappings().first()
            )
            values = {
                "state": OperationState.INTENDED,
                "sent_at": self._clock(),
                "resolved_at": None,
                "detail": "",
                "attempt": (row["attempt"] if row else 0) + 1,
            }
            if row is None:
                connection.execute(
                    operations_table.insert().values(
                        key=key,
                        run_id=run_id,
                        kind=kind,
                        endpoint=endpoint,
                        request_digest=request_digest,
                        estimated_cost=estimated_cost,
                        listed_before=json.dumps(list(listed_before)),
                        **values,
                    )
                )
            elif row["state"] == OperationState.CONFIRMED or row["request_digest"] != request_digest:
                raise LocalStateError(
                    f"the journal has a {row['state']} {kind} with this key already",
                    "`ftpipe status` shows it; no request was sent",
                )
            else:
                connection.execute(operations_table.update().where(operations_table.c.key == key).values(**values))
        operation = self.find(key)
        if operation is None:
            raise LocalStateError(
                "the journal lost an entry that was just committed", "`ftpipe doctor` checks the database"
            )
        return operation

    def confirm(self, key: str, remote_id: str) -> None:
        """The call was executed and created ``remote_id``."""
        self._resolve(key, OperationState.CONFIRMED, remote_id=remote_id)

    def reject(self, key: str, reason: str) -> None:
        """The call was certainly not executed."""
        self._resolve(key, OperationState.REJECTED, detail=reason)

    def mark_unknown(self, key: str, reason: str) -> None:
        """It is not known whether the call was executed."""
        self._resolve(key, OperationState.UNKNOWN, detail=reason)

    def _resolve(self, key: str, state: OperationState, *, remote_id: str | None = None, detail: str = "") -> None:
        with audited_transaction(self._engine, f"call {state.value}", self._clock) as change:
            change.track(operations_table, operations_table.c.key == key)
            change.connection.execute(
                operations_table.update()
                .where(operations_table.c.key == key, operations_table.c.state != OperationState.CONFIRMED)
                .values(state=state, remote_id=remote_id, detail=detail[:500], resolved_at=self._clock())
            )
