"""Evaluations that were made: who was compared with whom, and what came out; the items stay in their own file."""

from __future__ import annotations

import sqlalchemy as sa

from ftpipe.records.evaluation import Evaluation
from ftpipe.registry import tables
from ftpipe.registry.base import RepositoryBase, from_json
from ftpipe.registry.database import read_transaction


class EvaluationRecords(RepositoryBase):
    """The evaluations that are remembered."""

    def save_evaluation(self, evaluation: Evaluation) -> None:
        """Remember an evaluation without its items; the same one made again takes the place of the earlier."""
        kept = evaluation.model_copy(update={"outcomes": ()})
        values = {"created_at": evaluation.created_at, "data": kept.model_dump_json()}
        with self.changing("evaluation made") as change:
            change.track(tables.evaluations, tables.evaluations.c.id == evaluation.id)
            self._upsert(change.connection, tables.evaluations, {"id": evaluation.id}, values)

    def evaluations(self, *models: str, limit: int = 20) -> list[Evaluation]:
        """The evaluations in which all of these models took part, newest first.

        Args:
            models: Names to chat with.
            limit: How many at most.
        """
        table = tables.evaluations
        with read_transaction(self.engine) as connection:
            query = sa.select(table.c.data).order_by(table.c.created_at.desc(), table.c.id)
            rows = list(connection.execute(query).scalars())
        found = []
        for row in rows:
            evaluation = from_json(Evaluation, row)
            if set(models) <= {result.arm.model for result in evaluation.arms}:
                found.append(evaluation)
        return found[:limit]
