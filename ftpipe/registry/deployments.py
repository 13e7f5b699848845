"""Deployments that ftpipe made, as their hosts last reported them: what may be billed per hour."""

from __future__ import annotations

import sqlalchemy as sa

from ftpipe.records.deployment import Deployment
from ftpipe.registry.base import Repository, from_json, upsert
from ftpipe.registry.database import read_transaction
from ftpipe.registry.tables import deployments_table


class DeploymentRepository(Repository):
    """The deployments of the registry."""

    def save(self, deployment: Deployment) -> None:
        """Save a deployment as it was last reported."""
        table = deployments_table
        keys = {"endpoint": deployment.endpoint, "name": deployment.name}
        values = {"model_id": deployment.model, "data": deployment.model_dump_json(), "updated_at": self.clock()}
        with self.audited_transaction(f"deployment {deployment.state}") as change:
            change.track(table, table.c.endpoint == deployment.endpoint, table.c.name == deployment.name)
            upsert(change.connection, table, keys, values)

    def recent(self) -> list[Deployment]:
        """Every deployment, the one that changed last first."""
        with read_transaction(self.engine) as connection:
            query = sa.select(deployments_table.c.data).order_by(deployments_table.c.updated_at.desc())
            return [from_json(Deployment, data) for data in connection.execute(query).scalars()]

    def find(self, endpoint: str, name: str) -> Deployment | None:
        """The deployment of that name at an endpoint, if ftpipe made one."""
        table = deployments_table
        with read_transaction(self.engine) as connection:
            query = sa.select(table.c.data).where(table.c.endpoint == endpoint, table.c.name == name)
            data = connection.execute(query).scalar()
        return from_json(Deployment, data) if data is not None else None
