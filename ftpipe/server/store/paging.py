"""Cursor pages over a table, newest first unless asked otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Generic, TypeVar

from sqlalchemy import Column, Connection, RowMapping, Table, insert, select
from sqlalchemy.sql import ColumnElement

from ftpipe.errors import NotFoundError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = TypeVar("Row", bound="DataclassInstance")


class UnknownCursorError(NotFoundError):
    """``after`` names nothing in the list that is being read."""


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """One page of a list."""

    rows: tuple[Row, ...]
    has_more: bool


class Repository(Generic[Row]):
    """A table read and written as records; the tables' own classes add what is theirs.

    Args:
        conn: Connection whose transaction all calls belong to.
    """

    table: Table
    kind: type[Row]

    def __init__(self, conn: Connection) -> None:
        self.conn = conn

    def record(self, mapping: RowMapping) -> Row:
        """A database row as its record."""
        return self.kind(**{field.name: mapping[field.name] for field in fields(self.kind)})

    def add(self, row: Row) -> None:
        """Insert one record; the database gives it its place in the order."""
        values = asdict(row)
        values.pop("seq", None)
        self.conn.execute(insert(self.table).values(**values))

    def one(self, *where: ColumnElement[bool]) -> Row | None:
        """The first record that fits, or ``None``."""
        found = self.conn.execute(select(self.table).where(*where).limit(1)).mappings().first()
        return None if found is None else self.record(found)

    def all(self, *where: ColumnElement[bool]) -> list[Row]:
        """All records that fit, oldest first."""
        rows = self.conn.execute(select(self.table).where(*where).order_by(self.table.c.seq)).mappings()
        return [self.record(row) for row in rows]

    def page(
        self,
        where: Sequence[ColumnElement[bool]],
        *,
        after: str | None,
        limit: int,
        order: Column[int] | None = None,
        oldest_first: bool = False,
    ) -> Page[Row]:
        """The ``limit`` records that follow the one named by ``after``.

        Args:
            where: What a record must be like; the first clause says whose list it is, and ``after`` must belong there.
            after: Id of the last record of the page before; it need not fit the further clauses.
            limit: Most records to return.
            order: Column to go by; the order of arrival if ``None``.
            oldest_first: Go up instead of down.

        Raises:
            UnknownCursorError: If ``after`` is not in the list.
        """
        by = self.table.c.seq if order is None else order
        clauses = list(where)
        if after is not None:
            edge = self.conn.execute(select(by).where(self.table.c.id == after, where[0])).scalar()
            if edge is None:
                message = f"No item with id '{after}' is in this list."
                raise UnknownCursorError(message)
            clauses.append(by > edge if oldest_first else by < edge)
        query = select(self.table).where(*clauses).order_by(by if oldest_first else by.desc()).limit(limit + 1)
        rows = [self.record(row) for row in self.conn.execute(query).mappings()]
        return Page(tuple(rows[:limit]), len(rows) > limit)
