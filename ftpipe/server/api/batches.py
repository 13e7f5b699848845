"""``/batches``: create, list, retrieve and cancel batches.

Source: OpenAI API description, Batch and its routes, 2026-08-21: what a batch does not have is left out, not ``null``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ftpipe.atomic_files import link_or_copy
from ftpipe.server.api.schemas import CreateBatch, validate_body
from ftpipe.server.clock import now
from ftpipe.server.protocol import (
    ApiError,
    ApiRequest,
    bad_request,
    int_query_param,
    new_id,
    not_found,
    printable,
)
from ftpipe.server.storage import BatchRow, FileRow, Transaction
from ftpipe.server.storage.data_dir import DataDirectory

MAX_LIMIT = 100
MAX_OPEN_BATCHES = 100
"""Batches of one owner that have not ended."""
COMPLETION_WINDOW_SECONDS = 24 * 3600


class BatchesApi:
    """The handlers of ``/batches``.

    Args:
        data_dir: Folder of the input files.
        endpoints: What the requests of a batch can be sent to.
        wake: Called after a change that the runner must act on.
    """

    def __init__(self, data_dir: DataDirectory, endpoints: tuple[str, ...], wake: Callable[[], None]) -> None:
        self._data_dir = data_dir
        self._endpoints = endpoints
        self._wake = wake

    def create(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Create a batch; its input file is validated in the background."""
        body = validate_body(CreateBatch, request.body)
        if body.endpoint not in self._endpoints:
            served = ", ".join(self._endpoints)
            message = f"Invalid 'endpoint': batches are served for {served}, got '{printable(body.endpoint)}'."
            raise bad_request(message, "endpoint")
        file = _input_file(request, tx, body.input_file_id)
        if tx.batches.count_open(request.owner) >= MAX_OPEN_BATCHES:
            message = f"You have {MAX_OPEN_BATCHES} batches that have not ended; wait for one to end, or cancel one."
            raise ApiError(429, message, "rate_limit_exceeded")
        created = now()
        row = BatchRow(
            id=new_id("batch_"),
            owner=request.owner,
            created_at=created,
            endpoint=body.endpoint,
            input_file=file.id,
            expires_at=created + COMPLETION_WINDOW_SECONDS,
            user_metadata=body.metadata,
            output_expires_after=None if body.output_expires_after is None else body.output_expires_after.seconds,
        )
        tx.batches.add(row)
        link_or_copy(self._data_dir.file(file.id), self._data_dir.batch(row.id))
        tx.after_commit.append(self._wake)
        return serialize_batch(row)

    def list(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One page of the owner's batches, newest first."""
        limit = int_query_param(request, "limit", 20, maximum=MAX_LIMIT)
        page = tx.batches.page_of(request.owner, after=request.query_params.get("after"), limit=limit)
        return {
            "object": "list",
            "data": [serialize_batch(row) for row in page.rows],
            "first_id": page.rows[0].id if page.rows else "",
            "last_id": page.rows[-1].id if page.rows else "",
            "has_more": page.has_more,
        }

    def retrieve(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One batch."""
        return serialize_batch(_find(request, tx))

    def cancel(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Cancel a batch; answers that it has are in its files. Cancelling twice changes nothing."""
        row = _find(request, tx)
        if row.status in ("completed", "failed", "expired"):
            message = f"Cannot cancel a batch with status '{row.status}'."
            raise bad_request(message, None, "invalid_batch_status")
        if row.status in ("validating", "in_progress"):
            tx.batches.update(row.id, status="cancelling", cancelling_at=now())
            tx.after_commit.append(self._wake)
        tx.session.refresh(row)
        return serialize_batch(row)


def _input_file(request: ApiRequest, tx: Transaction, file_id: str) -> FileRow:
    row = tx.files.get(request.owner, file_id, now=now())
    if row is None:
        message = f"Invalid 'input_file_id': no such File object: {printable(file_id)}"
        raise bad_request(message, "input_file_id", "file_not_found")
    if row.purpose != "batch":
        message = f"Invalid 'input_file_id': the file's purpose is '{row.purpose}', expected 'batch'."
        raise bad_request(message, "input_file_id", "invalid_file_purpose")
    return row


def _find(request: ApiRequest, tx: Transaction) -> BatchRow:
    row = tx.batches.get(request.path_params["batch_id"], request.owner)
    if row is None:
        what = "batch"
        raise not_found(what, request.path_params["batch_id"], "batch_id")
    return row


def serialize_batch(row: BatchRow) -> dict[str, Any]:
    """A batch as the API returns it."""
    serialized: dict[str, Any] = {
        "id": row.id,
        "object": "batch",
        "endpoint": row.endpoint,
        "model": row.model,
        "errors": {"object": "list", "data": row.errors} if row.errors else None,
        "input_file_id": row.input_file,
        "completion_window": "24h",
        "status": row.status,
        "output_file_id": row.output_file,
        "error_file_id": row.error_file,
        "created_at": row.created_at,
        "in_progress_at": row.in_progress_at,
        "expires_at": row.expires_at,
        "finalizing_at": row.finalizing_at,
        "cancelling_at": row.cancelling_at,
        "request_counts": {"total": row.total, "completed": row.completed, "failed": row.failed},
    }
    if row.ended_at is not None:
        serialized[f"{row.status}_at"] = row.ended_at
    if row.status not in ("validating", "failed"):
        serialized["usage"] = {
            "input_tokens": row.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": row.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": row.input_tokens + row.output_tokens,
        }
    return {name: value for name, value in serialized.items() if value is not None} | {"metadata": row.user_metadata}
