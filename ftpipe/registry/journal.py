"""The journal of paid calls: an intent is on the disk before the call, and its outcome after it.

::

    intended ──> confirmed            the endpoint answered with an id
       │  └────> rejected             surely not executed; a new attempt is another intent
       └───────> unknown ──> confirmed | rejected      after looking at the endpoint
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum

import sqlalchemy as sa

from ftpipe.errors import StateError
from ftpipe.records import Record
from ftpipe.registry.connect import reading, writing
from ftpipe.registry.schema import operations


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


class Journal:
    """The journal, in the same database as the registry."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock

    def find(self, key: str) -> Operation | None:
        """The operation with that key, if there is one."""
        with reading(self._engine) as connection:
            row = connection.execute(sa.select(operations).where(operations.c.key == key)).mappings().first()
        return Operation(**row) if row else None

    def intend(
        self,
        *,
        key: str,
        run_id: str,
        kind: str,
        endpoint: str,
        request_sha256: str,
        estimated_cost: float | None = None,
    ) -> Operation:
        """Commit the intent to make a call; when this returns, it is on the disk.

        Raises:
            StateError: A call with that key has been confirmed, or another request has used the key.
        """
        with writing(self._engine) as connection:
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
                        **values,
                    )
                )
            elif row["state"] == OperationState.CONFIRMED or row["request_sha256"] != request_sha256:
                raise StateError(
                    f"the journal holds {row['state']} {kind} under this key already",
                    "`ftpipe status` shows it; nothing was sent",
                )
            else:
                connection.execute(operations.update().where(operations.c.key == key).values(**values))
        found = self.find(key)
        if found is None:
            raise StateError(
                "the journal lost an entry that it had just committed", "`ftpipe doctor` checks the database"
            )
        return found

    def confirm(self, key: str, remote_id: str) -> None:
        """The call was executed, and made ``remote_id``."""
        self._resolve(key, OperationState.CONFIRMED, remote_id=remote_id)

    def reject(self, key: str, why: str) -> None:
        """The call was surely not executed."""
        self._resolve(key, OperationState.REJECTED, detail=why)

    def doubt(self, key: str, why: str) -> None:
        """Whether the call was executed is not known."""
        self._resolve(key, OperationState.UNKNOWN, detail=why)

    def _resolve(self, key: str, state: OperationState, *, remote_id: str | None = None, detail: str = "") -> None:
        with writing(self._engine) as connection:
            connection.execute(
                operations.update()
                .where(operations.c.key == key, operations.c.state != OperationState.CONFIRMED)
                .values(state=state, remote_id=remote_id, detail=detail[:500], resolved_at=self._clock())
            )
