"""Models with their lineage and cost, and aliases that can be moved."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ftpipe.errors import UsageError
from ftpipe.records import Model, Record
from ftpipe.registry.base import Repository, from_json, insert_new, upsert
from ftpipe.registry.database import read_transaction
from ftpipe.registry.tables import alias_history_table, aliases_table, costs_table, models_table
from ftpipe.suggestions import nearest_name


class AliasMove(Record):
    """One move of an alias."""

    alias: str
    from_model: str | None
    to_model: str
    reason: str
    moved_at: float
    """UTC Unix seconds."""


def _names_of(model: Model) -> tuple[str, ...]:
    """Everything that stands for a model: aliases, its name, its job, and its checkpoints."""
    job = [model.job_id] if model.job_id else []
    return (*model.aliases, model.id, *job, *(checkpoint.model for checkpoint in model.checkpoints))


class ModelRepository(Repository):
    """The registered models and their aliases."""

    def recent(self, limit: int | None = None, *, offset: int = 0) -> list[Model]:
        """The models, newest first, each with its aliases."""
        table = models_table
        query = sa.select(table.c.data).order_by(table.c.created_at.desc(), table.c.id)
        return self._with_aliases(query.limit(limit).offset(offset) if limit is not None else query)

    def count(self) -> int:
        """How many models there are."""
        with read_transaction(self.engine) as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(models_table)).scalar() or 0

    def _with_aliases(self, query: sa.Select[Any]) -> list[Model]:
        """The models whose data a query selects, each with its aliases."""
        with read_transaction(self.engine) as connection:
            models = [from_json(Model, data) for data in connection.execute(query).scalars()]
            aliases = connection.execute(sa.select(aliases_table)).mappings().all()
        by_model: dict[tuple[str, str], list[str]] = {}
        for row in aliases:
            by_model.setdefault((row["endpoint"], row["model_id"]), []).append(row["alias"])
        return [m.model_copy(update={"aliases": tuple(sorted(by_model.get((m.endpoint, m.id), ())))}) for m in models]

    def get(self, name: str) -> Model:
        """The model with that name, alias or job id.

        Raises:
            UsageError: There is no such model; the hint names the command that lists the models.
        """
        models = self.recent()
        # a model's own name first: an alias can have the name of a model that another one has replaced
        model = next((one for one in models if one.id == name), None)
        model = model or next((one for one in models if name in _names_of(one)), None)
        if model is not None:
            return model
        nearest, hint = self.nearest_name(name), "`ftpipe models list` lists all of them"
        raise UsageError(
            f"there is no model {name!r} in the registry", f"did you mean {nearest}? {hint}" if nearest else hint
        )

    def nearest_name(self, name: str) -> str:
        """The name or alias that is most similar to a mistyped one; empty if none is."""
        return nearest_name(name, [known for model in self.recent() for known in _names_of(model)])

    def find(self, endpoint: str, model_id: str) -> Model | None:
        """The model with that name at that endpoint, if there is one."""
        table = models_table.c
        return next(
            iter(self._with_aliases(sa.select(table.data).where(table.endpoint == endpoint, table.id == model_id))),
            None,
        )

    def insert(self, connection: sa.Connection, model: Model) -> None:
        """Insert a model within a transaction; an existing one stays as it is."""
        values = {
            "endpoint": model.endpoint,
            "id": model.id,
            "job_id": model.job_id,
            "run_id": model.run_id,
            "created_at": model.created_at,
            "data": model.model_dump_json(exclude={"aliases"}),
        }
        insert_new(connection, models_table, values)

    def add(self, model: Model) -> None:
        """Save a model that has no run here; an existing one stays as it is."""
        table = models_table.c
        with self.audited_transaction("model added") as change:
            self.insert(change.connection, model)
            change.track(models_table, table.endpoint == model.endpoint, table.id == model.id)

    def behind_alias(self, alias: str) -> Model | None:
        """The model that an alias points at now; ``None`` if there is no such alias."""
        aliases, models = aliases_table, models_table
        same = (aliases.c.endpoint == models.c.endpoint) & (aliases.c.model_id == models.c.id)
        query = sa.select(models.c.data).select_from(aliases.join(models, same)).where(aliases.c.alias == alias)
        with read_transaction(self.engine) as connection:
            data = connection.execute(query).scalar()
        return from_json(Model, data) if data else None

    def save_cost(self, connection: sa.Connection, model: Model, price_row: str) -> None:
        """Save the cost of a job within a transaction: one row per job."""
        values: dict[str, Any] = {
            "run_id": model.run_id,
            "currency": model.currency,
            "estimated": model.estimated_cost,
            "actual": model.actual_cost,
            "price_row": price_row,
        }
        upsert(connection, costs_table, {"endpoint": model.endpoint, "job_id": model.job_id}, values)

    def set_alias(self, alias: str, model_id: str, *, reason: str = "") -> Model:
        """Point an alias at a model; if it pointed at another one it moves, and the move is added to its history.

        Args:
            alias: For example ``support-bot@production``, or the name of a model that this one replaces.
            model_id: A model's name, job id or another alias.
            reason: Why, for the history.

        Raises:
            UsageError: The alias is the name of a job or run, or there is no such model.
        """
        model = self.get(model_id)
        if not alias.strip() or alias != alias.strip() or alias.startswith(("ftjob-", "run-")):
            raise UsageError(f"{alias!r} cannot be an alias", "choose another name, for example support-bot@production")
        table = aliases_table
        with self.audited_transaction("alias moved") as change:
            connection = change.connection
            old = connection.execute(sa.select(table.c.model_id).where(table.c.alias == alias)).scalar()
            if old != model.id:
                values = {"endpoint": model.endpoint, "model_id": model.id, "moved_at": self.clock()}
                upsert(connection, table, {"alias": alias}, values)
                connection.execute(
                    alias_history_table.insert().values(
                        alias=alias, from_model=old, to_model=model.id, reason=reason, moved_at=self.clock()
                    )
                )
                change.track(table, table.c.alias == alias)
                history = alias_history_table
                newest = sa.select(sa.func.max(history.c.number)).scalar_subquery()
                change.track(history, history.c.number == newest)
        return self.get(model.id)

    def aliases(self) -> dict[str, str]:
        """Alias → model id."""
        with read_transaction(self.engine) as connection:
            rows = connection.execute(sa.select(aliases_table).order_by(aliases_table.c.alias)).mappings().all()
        return {row["alias"]: row["model_id"] for row in rows}

    def alias_history(self, alias: str) -> list[AliasMove]:
        """The moves of an alias, oldest first."""
        table = alias_history_table
        with read_transaction(self.engine) as connection:
            rows = connection.execute(
                sa.select(table).where(table.c.alias == alias).order_by(table.c.number)
            ).mappings()
            return [AliasMove(**{k: v for k, v in row.items() if k != "number"}) for row in rows]
