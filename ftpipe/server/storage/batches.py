"""Queries over the tables of batches and of their answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import delete, func, select, update

from ftpipe.server.storage.repositories import Page, Repository
from ftpipe.server.storage.tables import BatchAnswerRow, BatchRow

ENDED = ("completed", "failed", "expired", "cancelled")
"""Statuses after which a batch does not change."""


def answer_ids(batch_id: str) -> tuple[str, str]:
    """The ids of a batch's output and error file; always the same, so that a crash leaves no file of another name."""
    name = batch_id.removeprefix("batch_")
    return f"file-{name}o", f"file-{name}e"


class BatchRepository(Repository[BatchRow]):
    """The batches table, with the answers of batches that have not ended."""

    row_type = BatchRow

    def get(self, batch_id: str, owner: str | None = None) -> BatchRow | None:
        """A batch by id; with ``owner`` only that owner's."""
        conditions = [BatchRow.id == batch_id]
        if owner is not None:
            conditions.append(BatchRow.owner == owner)
        return self.first(*conditions)

    def page_of(self, owner: str, *, after: str | None, limit: int) -> Page[BatchRow]:
        """One page of an owner's batches, newest first."""
        return self.page([BatchRow.owner == owner], after=after, limit=limit)

    def open(self) -> list[BatchRow]:
        """Batches that have not ended, oldest first."""
        return self.all(BatchRow.status.not_in(ENDED))

    def count_open(self, owner: str) -> int:
        """How many batches of an owner have not ended."""
        query = select(func.count()).where(BatchRow.owner == owner, BatchRow.status.not_in(ENDED))
        return self.session.execute(query).scalar_one()

    def update(self, batch_id: str, **values: Any) -> None:
        """Set columns of one batch."""
        self.session.execute(update(BatchRow).where(BatchRow.id == batch_id).values(**values))

    def change_status(self, batch: BatchRow, status: str, **values: Any) -> bool:
        """Set the status, and columns with it, unless the status is not that of ``batch`` any more.

        Returns:
            Whether it was set.
        """
        query = update(BatchRow).where(BatchRow.id == batch.id, BatchRow.status == batch.status)
        return bool(self.session.execute(query.values(status=status, **values)).rowcount)  # type: ignore[attr-defined]

    def add_answer(self, row: BatchAnswerRow, *, input_tokens: int = 0, output_tokens: int = 0) -> None:
        """Store an answer, and count it."""
        self.session.add(row)
        self.session.flush()
        counted = BatchRow.failed if row.is_error else BatchRow.completed
        values = {
            counted: counted + 1,
            BatchRow.input_tokens: BatchRow.input_tokens + input_tokens,
            BatchRow.output_tokens: BatchRow.output_tokens + output_tokens,
            BatchRow.starts: 0,
        }
        self.session.execute(update(BatchRow).where(BatchRow.id == row.batch_id).values(values))

    def answered_lines(self, batch_id: str) -> set[int]:
        """Lines of the input file that are answered."""
        return set(self.session.scalars(select(BatchAnswerRow.line).where(BatchAnswerRow.batch_id == batch_id)))

    def answers(self, batch_id: str, *, is_error: bool) -> Iterator[str]:
        """The lines of the output or error file, in the order of the input file."""
        query = select(BatchAnswerRow.content).where(
            BatchAnswerRow.batch_id == batch_id, BatchAnswerRow.is_error == is_error
        )
        yield from self.session.scalars(query.order_by(BatchAnswerRow.line).execution_options(yield_per=100))

    def delete_answers(self, batch_id: str) -> None:
        """Delete the answers of a batch that has ended: they are in its files."""
        self.session.execute(delete(BatchAnswerRow).where(BatchAnswerRow.batch_id == batch_id))
