"""The base class of the registry's repositories: database, clock, audited transactions and upserts."""

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
        LocalStateError: The text is not such a record: a bit has flipped, or somebody has edited it.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise LocalStateError(
            f"a {kind.__name__.lower()} in the registry is damaged: {field + ': ' if field else ''}{first['msg']}",
            "`ftpipe doctor --repair` renames the database and rebuilds it from its mirror and the endpoint's jobs",
        ) from error


@contextlib.contextmanager
def audited_transaction(engine: sa.Engine, what: str, clock: Callable[[], float]) -> Iterator[AuditedChange]:
    """A transaction whose changed rows are appended to the audit log and then to its mirror.

    Args:
        engine: An open database.
        what: What is done, for the audit log.
        clock: UTC Unix seconds.
    """
    with write_transaction(engine) as connection:
        change = AuditedChange(connection)
        yield change
        change.append_entry(what, clock())
    append_to_mirror(engine)


def insert_new(connection: sa.Connection, table: sa.Table, values: dict[str, Any]) -> bool:
    """Insert a row unless its key exists, even if another process inserts it at the same moment; True if inserted."""
    statement = _insert(connection, table).values(**values).on_conflict_do_nothing()
    result: sa.CursorResult[Any] = connection.execute(statement)
    return result.rowcount == 1


def upsert(connection: sa.Connection, table: sa.Table, keys: dict[str, Any], values: dict[str, Any]) -> None:
    """Insert a row, or update the one with these keys."""
    statement = _insert(connection, table).values(**keys, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=list(keys), set_=values))


def _insert(connection: sa.Connection, table: sa.Table) -> Any:  # noqa: ANN401  # the insert of one of two dialects
    return (postgresql.insert if connection.engine.dialect.name == "postgresql" else sqlite.insert)(table)


class Repository:
    """The records of one kind in the registry.

    Args:
        engine: An open database, from ``open_registry``.
        clock: UTC Unix seconds.
    """

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.clock = clock

    def audited_transaction(self, what: str) -> contextlib.AbstractContextManager[AuditedChange]:
        """A transaction that is written to the audit log."""
        return audited_transaction(self.engine, what, self.clock)
