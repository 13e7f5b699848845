"""Models with their lineage and cost, and aliases that can be moved."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ftpipe.errors import UsageError
from ftpipe.records import Model, Record
from ftpipe.registry import tables
from ftpipe.registry.base import RepositoryBase, from_json
from ftpipe.registry.database import read_transaction


class AliasMove(Record):
    """One move of an alias."""

    alias: str
    from_model: str | None
    to_model: str
    reason: str
    moved_at: float
    """UTC Unix seconds."""


class ModelRecords(RepositoryBase):
    """The registered models."""

    def models(self, limit: int | None = None) -> list[Model]:
        """The models, newest first, each with its aliases."""
        table = tables.models
        with read_transaction(self.engine) as connection:
            query = sa.select(table.c.data).order_by(table.c.created_at.desc(), table.c.id).limit(limit)
            found = [from_json(Model, data) for data in connection.execute(query).scalars()]
            names = connection.execute(sa.select(tables.aliases)).mappings().all()
        by_model: dict[tuple[str, str], list[str]] = {}
        for row in names:
            by_model.setdefault((row["endpoint"], row["model_id"]), []).append(row["alias"])
        return [m.model_copy(update={"aliases": tuple(sorted(by_model.get((m.endpoint, m.id), ())))}) for m in found]

    def model(self, name: str) -> Model:
        """The model of that name, alias or job id.

        Raises:
            UsageError: There is none; the hint says how to see what there is.
        """
        for model in self.models():
            if name in (model.id, model.job_id, *model.aliases) or name in (c.model for c in model.checkpoints):
                return model
        raise UsageError(f"there is no model {name!r} in the registry", "`ftpipe models list` shows what there is")

    def model_at(self, endpoint: str, model_id: str) -> Model | None:
        """The model of that name at that endpoint."""
        return next((m for m in self.models() if m.endpoint == endpoint and m.id == model_id), None)

    def write_model(self, connection: sa.Connection, model: Model) -> None:
        """Write a model within a transaction; one that is there stays as it is."""
        values = {
            "endpoint": model.endpoint,
            "id": model.id,
            "job_id": model.job_id,
            "run_id": model.run_id,
            "created_at": model.created_at,
            "data": model.model_dump_json(exclude={"aliases"}),
        }
        self.insert_new(connection, tables.models, values)

    def write_cost(self, connection: sa.Connection, model: Model, price_row: str) -> None:
        """Write what a job cost, within a transaction: one row a job."""
        values: dict[str, Any] = {
            "run_id": model.run_id,
            "currency": model.currency,
            "estimated": model.estimated_cost,
            "actual": model.actual_cost,
            "price_row": price_row,
        }
        self._upsert(connection, tables.costs, {"endpoint": model.endpoint, "job_id": model.job_id}, values)

    def alias(self, alias: str, model_id: str, *, reason: str = "") -> Model:
        """Point an alias at a model; it moves if it pointed elsewhere, and the move is remembered.

        Args:
            alias: For example ``support-bot@production``.
            model_id: A model's name, job id or another alias.
            reason: Why, for the history.

        Raises:
            UsageError: The alias is a model's own name, or there is no such model.
        """
        model = self.model(model_id)
        if not alias.strip() or alias != alias.strip() or alias.startswith(("ft:", "ftjob-", "run-")):
            raise UsageError(
                f"{alias!r} cannot be an alias", "choose a name of your own, for example support-bot@production"
            )
        table = tables.aliases
        with self.changing("alias moved") as change:
            connection = change.connection
            old = connection.execute(sa.select(table.c.model_id).where(table.c.alias == alias)).scalar()
            if old != model.id:
                values = {"endpoint": model.endpoint, "model_id": model.id, "moved_at": self.clock()}
                self._upsert(connection, table, {"alias": alias}, values)
                connection.execute(
                    tables.alias_history.insert().values(
                        alias=alias, from_model=old, to_model=model.id, reason=reason, moved_at=self.clock()
                    )
                )
                change.track(table, table.c.alias == alias)
                moves = tables.alias_history
                newest = sa.select(sa.func.max(moves.c.number)).scalar_subquery()
                change.track(moves, moves.c.number == newest)
        return self.model(model.id)

    def aliases(self) -> dict[str, str]:
        """Alias → model id."""
        with read_transaction(self.engine) as connection:
            rows = connection.execute(sa.select(tables.aliases).order_by(tables.aliases.c.alias)).mappings().all()
        return {row["alias"]: row["model_id"] for row in rows}

    def alias_history(self, alias: str) -> list[AliasMove]:
        """The moves of an alias, oldest first."""
        table = tables.alias_history
        with read_transaction(self.engine) as connection:
            rows = connection.execute(
                sa.select(table).where(table.c.alias == alias).order_by(table.c.number)
            ).mappings()
            return [AliasMove(**{k: v for k, v in row.items() if k != "number"}) for row in rows]
