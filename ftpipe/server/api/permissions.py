"""Checkpoint permissions: letting another project, which is another key's owner, use a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftpipe.server.api.schemas import CreatePermissions, validate_body
from ftpipe.server.clock import now
from ftpipe.server.model_resolver import model_not_found
from ftpipe.server.protocol import ApiRequest, enum_query_param, int_query_param, new_id, not_found
from ftpipe.server.storage import PermissionRow, Transaction

MAX_LIMIT = 1000


class PermissionsApi:
    """The handlers of ``/fine_tuning/checkpoints/{checkpoint}/permissions``, for the checkpoint's owner only."""

    def create(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Let projects use a checkpoint; one that may already keeps its permission."""
        asked = validate_body(CreatePermissions, call.body)
        checkpoint = _own_checkpoint(call, tx)
        rows = [_grant(tx, checkpoint, project) for project in asked.project_ids]
        return _list_object(rows, has_more=False)

    def list(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One page of the permissions of a checkpoint."""
        checkpoint = _own_checkpoint(call, tx)
        page = tx.permissions.page_of(
            checkpoint,
            project_id=call.query.get("project_id"),
            after=call.query.get("after"),
            limit=int_query_param(call, "limit", 10, maximum=MAX_LIMIT),
            oldest_first=enum_query_param(call, "order", ("descending", "ascending")) == "ascending",
        )
        return _list_object(list(page.rows), has_more=page.has_more)

    def delete(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Take a permission back."""
        checkpoint = _own_checkpoint(call, tx)
        row = tx.permissions.get(checkpoint, call.path["permission_id"])
        if row is None:
            what = "checkpoint permission"
            raise not_found(what, call.path["permission_id"], "permission_id")
        tx.permissions.delete(row.id)
        return {"id": row.id, "object": "checkpoint.permission", "deleted": True}


def _own_checkpoint(call: ApiRequest, tx: Transaction) -> str:
    """The name of a model or checkpoint that is the caller's own."""
    name = call.path["checkpoint"]
    job = tx.jobs.by_model(name)
    if job is None:
        checkpoint = tx.checkpoints.by_model(name)
        job = None if checkpoint is None else tx.jobs.get(checkpoint.job_id)
    if job is None or job.owner != call.owner:
        raise model_not_found(name)
    return name


def _grant(tx: Transaction, checkpoint: str, project: str) -> PermissionRow:
    known = tx.permissions.find(checkpoint, project)
    if known is None:
        known = PermissionRow(new_id("cp_"), checkpoint, project, now())
        tx.permissions.add(known)
    return known


def _list_object(rows: list[PermissionRow], *, has_more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [
            {
                "object": "checkpoint.permission",
                "id": row.id,
                "created_at": row.created_at,
                "project_id": row.project_id,
            }
            for row in rows
        ],
        "first_id": rows[0].id if rows else None,
        "last_id": rows[-1].id if rows else None,
        "has_more": has_more,
    }
