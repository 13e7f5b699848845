"""What the parts of the registry share: the database, the clock, and the insert that may find a row there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.dialects import postgresql, sqlite

from ftpipe.errors import LocalStateError
from ftpipe.records import Record
from ftpipe.registry.audit_log import AuditedChange
from ftpipe.registry.audit_log_mirror import append_to_mirror
from ftpipe.registry.database import write_transaction

R = TypeVar("R", bound=Record)


def from_json(kind: type[R], text: str) -> R:
    """A record from the database.

    Raises:
        LocalStateError: The text is not that record any more: a bit has flipped, or somebody has edited it.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise LocalStateError(
            f"a {kind.__name__.lower()} in the registry is damaged: {place + ': ' if place else ''}{first['msg']}",
            "`ftpipe doctor --repair` moves the database aside and rebuilds it from what is whole and what is listed",
        ) from error


@contextlib.contextmanager
def audited_transaction(engine: sa.Engine, what: str, clock: Callable[[], float]) -> Iterator[AuditedChange]:
    """A transaction whose rows go into the ledger with it, and then into the copy beside the database.

    Args:
        engine: An open database.
        what: What is done, for the ledger.
        clock: UTC Unix seconds.
    """
    with write_transaction(engine) as connection:
        change = AuditedChange(connection)
        yield change
        change.append_entry(what, clock())
    append_to_mirror(engine)


class RepositoryBase:
    """A part of the registry.

    Args:
        engine: An open database, from ``open_registry``.
        clock: UTC Unix seconds.
    """

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.clock = clock

    @property
    def place(self) -> str:
        """Where the database is, without a password."""
        return self.engine.url.render_as_string(hide_password=True)

    def changing(self, what: str) -> contextlib.AbstractContextManager[AuditedChange]:
        """A transaction that the ledger tells of."""
        return audited_transaction(self.engine, what, self.clock)

    def _upsert(self, connection: sa.Connection, table: sa.Table, keys: dict[str, Any], values: dict[str, Any]) -> None:
        statement = self._insert(table).values(**keys, **values)
        connection.execute(statement.on_conflict_do_update(index_elements=list(keys), set_=values))

    def insert_new(self, connection: sa.Connection, table: sa.Table, values: dict[str, Any]) -> bool:
        """Insert a row unless it is there, also where another process inserts it at the same moment; True if it did."""
        done: sa.CursorResult[Any] = connection.execute(self._insert(table).values(**values).on_conflict_do_nothing())
        return done.rowcount == 1

    def _insert(self, table: sa.Table) -> Any:  # noqa: ANN401 - one of two dialects' own insert
        return (postgresql.insert if self.engine.dialect.name == "postgresql" else sqlite.insert)(table)
