"""Chat completions whose request had ``store``: list, retrieve, update, delete, and the messages of the request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftpipe.canonical_json import canonical_json
from ftpipe.server.api.schemas import UpdateCompletion, validate_body
from ftpipe.server.protocol import (
    ApiRequest,
    enum_query_param,
    int_query_param,
    metadata_filter,
    not_found,
)
from ftpipe.server.storage import CompletionRow, Transaction, UnknownCursorError

MAX_LIMIT = 100
MAX_STORED = 10_000
"""Completions of one owner; the oldest ones are deleted when there are more."""
MAX_STORED_BYTES = 256 * 1024 * 1024
"""Their size in total; the same."""


def add_completion(
    tx: Transaction, request: ApiRequest, body: Mapping[str, Any], metadata: Mapping[str, str]
) -> CompletionRow:
    """Store a completion with the messages of its request; the owner's oldest ones are deleted at the limits."""
    messages = list(request.body["messages"])
    row = CompletionRow(
        id=body["id"],
        owner=request.owner,
        model=request.alias or request.body["model"],
        created_at=body["created"],
        bytes=len(canonical_json([messages, dict(body)])),
        user_metadata=dict(metadata),
        messages=messages,
        body={**body, "metadata": dict(metadata)},
    )
    tx.completions.add(row)
    tx.completions.delete_oldest(request.owner, max_rows=MAX_STORED, max_bytes=MAX_STORED_BYTES)
    return row


class StoredCompletionsApi:
    """The handlers of ``/chat/completions`` for what is stored."""

    def list(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One page of the owner's stored completions."""
        metadata, without_metadata = metadata_filter(request)
        page = tx.completions.page_of(
            request.owner,
            model=request.query_params.get("model"),
            metadata=metadata,
            without_metadata=without_metadata,
            after=request.query_params.get("after"),
            limit=int_query_param(request, "limit", 20, maximum=MAX_LIMIT),
            oldest_first=enum_query_param(request, "order", ("asc", "desc")) == "asc",
        )
        return _list_object([row.body for row in page.rows], has_more=page.has_more)

    def retrieve(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One stored completion."""
        return _find(request, tx).body

    def update(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Replace the metadata, which is all that can be changed."""
        metadata = validate_body(UpdateCompletion, request.body).metadata or {}
        row = _find(request, tx)
        body = {**row.body, "metadata": metadata}
        tx.completions.update(row.id, user_metadata=metadata, body=body)
        return body

    def delete(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Delete a stored completion."""
        row = _find(request, tx)
        tx.completions.delete(row.id)
        return {"id": row.id, "object": "chat.completion.deleted", "deleted": True}

    def messages(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One page of the messages that the completion answers."""
        row = _find(request, tx)
        messages = [_serialize_message(f"{row.id}-{index}", one) for index, one in enumerate(row.messages)]
        limit = int_query_param(request, "limit", 20, maximum=MAX_LIMIT)
        if enum_query_param(request, "order", ("asc", "desc")) == "desc":
            messages.reverse()
        after = request.query_params.get("after")
        if after is not None:
            index = next((index for index, one in enumerate(messages) if one["id"] == after), None)
            if index is None:
                message = f"No message with id '{after}' is in this completion."
                raise UnknownCursorError(message)
            del messages[: index + 1]
        return _list_object(messages[:limit], has_more=len(messages) > limit)


def _find(request: ApiRequest, tx: Transaction) -> CompletionRow:
    row = tx.completions.get(request.owner, request.path_params["completion_id"])
    if row is None:
        what = "chat completion"
        raise not_found(what, request.path_params["completion_id"], "completion_id")
    return row


def _serialize_message(message_id: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """A message of the request. Source: OpenAI API description, ChatCompletionMessageList, 2026-08-21."""
    content = message.get("content")
    parts = content if isinstance(content, list) else None
    rest = {"refusal": None, "name": None, **message}
    return {**rest, "id": message_id, "content": None if parts else content, "content_parts": parts}


def _list_object(data: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else "",
        "last_id": data[-1]["id"] if data else "",
        "has_more": has_more,
    }
