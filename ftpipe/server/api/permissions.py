"""Checkpoint permissions: allow another project, which is the owner of another key, to use a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftpipe.server.api.schemas import CreatePermissions, validate_body
from ftpipe.server.clock import now
from ftpipe.server.model_resolver import find_tuned
from ftpipe.server.protocol import ApiRequest, enum_query_param, int_query_param, model_not_found, new_id, not_found
from ftpipe.server.storage import PermissionRow, Transaction

MAX_LIMIT = 1000


class PermissionsApi:
    """The handlers of ``/fine_tuning/checkpoints/{checkpoint}/permissions``, for the checkpoint's owner only."""

    def create(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Allow projects to use a checkpoint; existing permissions stay."""
        body = validate_body(CreatePermissions, request.body)
        checkpoint = _own_checkpoint(request, tx)
        rows = [_grant(tx, checkpoint, project) for project in body.project_ids]
        return _list_object(rows, has_more=False)

    def list(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One page of the permissions of a checkpoint."""
        checkpoint = _own_checkpoint(request, tx)
        page = tx.permissions.page_of(
            checkpoint,
            project_id=request.query_params.get("project_id"),
            after=request.query_params.get("after"),
            limit=int_query_param(request, "limit", 10, maximum=MAX_LIMIT),
            oldest_first=enum_query_param(request, "order", ("descending", "ascending")) == "ascending",
        )
        return _list_object(list(page.rows), has_more=page.has_more)

    def delete(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Revoke a permission."""
        checkpoint = _own_checkpoint(request, tx)
        row = tx.permissions.get(checkpoint, request.path_params["permission_id"])
        if row is None:
            what = "checkpoint permission"
            raise not_found(what, request.path_params["permission_id"], "permission_id")
        tx.permissions.delete(row.id)
        return {"id": row.id, "object": "checkpoint.permission", "deleted": True}


def _own_checkpoint(request: ApiRequest, tx: Transaction) -> str:
    """The name of a model or checkpoint that the caller owns."""
    name = request.path_params["checkpoint"]
    job, _ = find_tuned(tx, name)
    if job is None or job.owner != request.owner:
        raise model_not_found(name)
    return name


def _grant(tx: Transaction, checkpoint: str, project: str) -> PermissionRow:
    permission = tx.permissions.find(checkpoint, project)
    if permission is None:
        permission = PermissionRow(new_id("cp_"), checkpoint, project, now())
        tx.permissions.add(permission)
    return permission


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
