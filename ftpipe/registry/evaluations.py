"""Results of evaluations; the items stay in their own file."""

from __future__ import annotations

from itertools import islice

import sqlalchemy as sa

from ftpipe.records.evaluation import Evaluation
from ftpipe.registry.base import Repository, from_json, upsert
from ftpipe.registry.database import read_transaction
from ftpipe.registry.tables import evaluations_table


class EvaluationRepository(Repository):
    """The evaluations of the registry."""

    def save(self, evaluation: Evaluation) -> None:
        """Save an evaluation without its items; a repeated evaluation replaces the earlier one."""
        summary = evaluation.model_copy(update={"outcomes": ()})
        values = {"created_at": evaluation.created_at, "data": summary.model_dump_json()}
        with self.audited_transaction("evaluation saved") as change:
            change.track(evaluations_table, evaluations_table.c.id == evaluation.id)
            upsert(change.connection, evaluations_table, {"id": evaluation.id}, values)

    def find(self, evaluation_id: str) -> Evaluation | None:
        """The evaluation of that id, without its items."""
        query = sa.select(evaluations_table.c.data).where(evaluations_table.c.id == evaluation_id)
        with read_transaction(self.engine) as connection:
            data = connection.execute(query).scalar()
        return from_json(Evaluation, data) if data else None

    def recent(self, *models: str, limit: int = 20) -> list[Evaluation]:
        """The evaluations in which all of these models took part, newest first.

        Args:
            models: Model names.
            limit: Maximum number of evaluations.
        """
        table = evaluations_table
        with read_transaction(self.engine) as connection:
            query = sa.select(table.c.data).order_by(table.c.created_at.desc(), table.c.id)
            rows = list(connection.execute(query).scalars())
        evaluations = (from_json(Evaluation, row) for row in rows)
        matching = (one for one in evaluations if set(models) <= {result.arm.model for result in one.arms})
        return list(islice(matching, limit))
