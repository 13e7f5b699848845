"""What the parts of the registry share: the database, the clock, and the insert that may find a row there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite


class Rows:
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

    def _upsert(self, connection: sa.Connection, table: sa.Table, keys: dict[str, Any], values: dict[str, Any]) -> None:
        insert = postgresql.insert if self.engine.dialect.name == "postgresql" else sqlite.insert
        statement = insert(table).values(**keys, **values)
        connection.execute(statement.on_conflict_do_update(index_elements=list(keys), set_=values))
