"""Checkpoint permissions, stored completions and remembered replies."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import ColumnElement, delete, func, select

from ftpipe.server.store import schema
from ftpipe.server.store.paging import Page, Repository
from ftpipe.server.store.rows import CompletionRow, IdempotencyRow, PermissionRow


class PermissionRepository(Repository[PermissionRow]):
    """The permissions table."""

    table = schema.permissions
    kind = PermissionRow

    def find(self, checkpoint: str, project_id: str) -> PermissionRow | None:
        """A project's leave for a checkpoint."""
        return self.one(schema.permissions.c.checkpoint == checkpoint, schema.permissions.c.project_id == project_id)

    def get(self, checkpoint: str, permission_id: str) -> PermissionRow | None:
        """A permission by its id."""
        return self.one(schema.permissions.c.checkpoint == checkpoint, schema.permissions.c.id == permission_id)

    def page_of(
        self, checkpoint: str, *, project_id: str | None, after: str | None, limit: int, oldest_first: bool
    ) -> Page[PermissionRow]:
        """One page of a checkpoint's permissions."""
        where: list[ColumnElement[bool]] = [schema.permissions.c.checkpoint == checkpoint]
        if project_id is not None:
            where.append(schema.permissions.c.project_id == project_id)
        return self.page(where, after=after, limit=limit, oldest_first=oldest_first)

    def delete(self, permission_id: str) -> None:
        """Take a permission back."""
        self.conn.execute(delete(schema.permissions).where(schema.permissions.c.id == permission_id))


class CompletionRepository(Repository[CompletionRow]):
    """The table of stored chat answers."""

    table = schema.completions
    kind = CompletionRow

    def page_of(
        self,
        owner: str,
        *,
        model: str | None,
        pairs: Mapping[str, str],
        bare: bool,
        after: str | None,
        limit: int,
        oldest_first: bool,
    ) -> Page[CompletionRow]:
        """One page of an owner's stored answers."""
        where: list[ColumnElement[bool]] = [schema.completions.c.owner == owner]
        if model is not None:
            where.append(schema.completions.c.model == model)
        if bare:
            where.append(func.json(schema.completions.c.pairs) == "{}")
        for key, value in pairs.items():
            each = func.json_each(schema.completions.c.pairs).table_valued("key", "value")
            where.append(select(each.c.key).where(each.c.key == key, each.c.value == value).exists())
        return self.page(where, after=after, limit=limit, oldest_first=oldest_first)


class IdempotencyRepository(Repository[IdempotencyRow]):
    """The table of answers given under an Idempotency-Key."""

    table = schema.idempotency_keys
    kind = IdempotencyRow

    def find(self, owner: str, key: str) -> IdempotencyRow | None:
        """What was answered under this key."""
        return self.one(schema.idempotency_keys.c.owner == owner, schema.idempotency_keys.c.key == key)

    def delete_before(self, moment: int) -> None:
        """Drop replies that are older than they are promised to be kept."""
        self.conn.execute(delete(schema.idempotency_keys).where(schema.idempotency_keys.c.created_at < moment))
