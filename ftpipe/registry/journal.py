"""The journal of paid calls: an intent is on the disk before the call, and its outcome after it.

::

    intended ──> confirmed            the endpoint answered with an id
       │  └────> rejected             surely not executed; a new attempt is another intent
       └───────> unknown ──> confirmed | rejected      after looking at the endpoint
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
from ftpipe.registry.tables import jobs, operations


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
    request_sha256: str
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
            row = connection.execute(sa.select(operations).where(operations.c.key == key)).mappings().first()
        return Operation(**{**row, "listed_before": json.loads(row["listed_before"] or "[]")}) if row else None

    def jobs_of_other_runs(self, endpoint: str, *, run_id: str) -> set[str]:
        """Jobs at an endpoint that other runs of this registry have, so that none of them is taken for this run's."""
        called = sa.select(operations.c.remote_id).where(
            operations.c.endpoint == endpoint, operations.c.run_id != run_id, operations.c.remote_id.is_not(None)
        )
        owned = sa.select(jobs.c.id).where(jobs.c.endpoint == endpoint, jobs.c.run_id != run_id)
        with read_transaction(self._engine) as connection:
            return {*connection.execute(called).scalars(), *connection.execute(owned).scalars()}

    def record_intent(
        self,
        *,
        key: str,
        run_id: str,
        kind: str,
        endpoint: str,
        request_sha256: str,
        estimated_cost: float | None = None,
        listed_before: Iterable[str] = (),
    ) -> Operation:
        """Commit the intent to make a call; when this returns, it is on the disk.

        ``listed_before`` is kept from the first attempt alone: what is listed later may be that attempt's own.

        Raises:
            LocalStateError: A call with that key has been confirmed, or another request has used the key.
        """
        with audited_transaction(self._engine, f"{kind} intended", self._clock) as change:
            connection = change.connection
            change.track(operations, operations.c.key == key)
            row = connection.execute(sa.select(operations).where(operations.c.key == key)).mappings().first()
            values = {
                "state": OperationState.INTENDED,
                "sent_at": self._clock(),
                "resolved_at": None,
                "detail": "",
                "attempt": (row["attempt"] if row else 0) + 1,
            }
            if row is None:
                connection.execute(
                    operations.insert().values(
                        key=key,
                        run_id=run_id,
                        kind=kind,
                        endpoint=endpoint,
                        request_sha256=request_sha256,
                        estimated_cost=estimated_cost,
                        listed_before=json.dumps(list(listed_before)),
                        **values,
                    )
                )
            elif row["state"] == OperationState.CONFIRMED or row["request_sha256"] != request_sha256:
                raise LocalStateError(
                    f"the journal holds {row['state']} {kind} under this key already",
                    "`ftpipe status` shows it; nothing was sent",
                )
            else:
                connection.execute(operations.update().where(operations.c.key == key).values(**values))
        found = self.find(key)
        if found is None:
            raise LocalStateError(
                "the journal lost an entry that it had just committed", "`ftpipe doctor` checks the database"
            )
        return found

    def confirm(self, key: str, remote_id: str) -> None:
        """The call was executed, and made ``remote_id``."""
        self._resolve(key, OperationState.CONFIRMED, remote_id=remote_id)

    def reject(self, key: str, why: str) -> None:
        """The call was surely not executed."""
        self._resolve(key, OperationState.REJECTED, detail=why)

    def mark_unknown(self, key: str, why: str) -> None:
        """Whether the call was executed is not known."""
        self._resolve(key, OperationState.UNKNOWN, detail=why)

    def _resolve(self, key: str, state: OperationState, *, remote_id: str | None = None, detail: str = "") -> None:
        with audited_transaction(self._engine, f"call {state.value}", self._clock) as change:
            change.track(operations, operations.c.key == key)
            change.connection.execute(
                operations.update()
                .where(operations.c.key == key, operations.c.state != OperationState.CONFIRMED)
                .values(state=state, remote_id=remote_id, detail=detail[:500], resolved_at=self._clock())
            )
