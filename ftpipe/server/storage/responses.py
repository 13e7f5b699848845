"""The table of stored responses: bounded for each owner, and read along the chain of a conversation."""

from __future__ import annotations

from sqlalchemy import delete, func, select

from ftpipe.errors import UsageError
from ftpipe.server.storage.repositories import Repository
from ftpipe.server.storage.tables import ResponseRow

MAX_RESPONSES_PER_OWNER = 10_000
MAX_BYTES_PER_OWNER = 256 * 1024 * 1024
MAX_CHAIN_RESPONSES = 256
"""Responses of one conversation, each of which names the one before."""
MAX_CHAIN_BYTES = 16 * 1024 * 1024


class MissingResponseError(UsageError):
    """A response of a conversation is not stored, or not any more."""

    code = "previous_response_not_found"

    def __init__(self, response_id: str) -> None:
        super().__init__(f"there is no response {response_id}")
        self.response_id = response_id


class ChainLimitError(UsageError):
    """A conversation has too many responses, or they are too large."""

    code = "conversation_too_long"


class ResponseRepository(Repository[ResponseRow]):
    """The table of stored responses."""

    row_type = ResponseRow

    def get(self, owner: str, response_id: str, *, now: int) -> ResponseRow | None:
        """One owner's response that has not expired."""
        return self.first(ResponseRow.id == response_id, ResponseRow.owner == owner, ResponseRow.expires_at > now)

    def add(self, row: ResponseRow) -> None:
        """Insert a row, and delete the owner's oldest ones if there are too many."""
        super().add(row)
        query = select(func.count(), func.sum(ResponseRow.bytes)).where(ResponseRow.owner == row.owner)
        count, size = self.session.execute(query).one()
        if count > MAX_RESPONSES_PER_OWNER or size > MAX_BYTES_PER_OWNER:
            self._delete_oldest(row.owner)

    def _delete_oldest(self, owner: str) -> None:
        """Delete an owner's responses that are beyond the limits, except the newest one."""
        query = select(ResponseRow.seq, ResponseRow.bytes).where(ResponseRow.owner == owner)
        size = 0
        for count, (seq, bytes_) in enumerate(self.session.execute(query.order_by(ResponseRow.seq.desc()))):
            size += bytes_
            if count and (count >= MAX_RESPONSES_PER_OWNER or size > MAX_BYTES_PER_OWNER):
                self.session.execute(delete(ResponseRow).where(ResponseRow.owner == owner, ResponseRow.seq <= seq))
                return

    def chain(self, owner: str, response_id: str, *, now: int) -> list[ResponseRow]:
        """A response and all those before it in its conversation, oldest first.

        Raises:
            MissingResponseError: One of them is not there.
            ChainLimitError: There are too many, or they are too large to be read at once.
        """
        ids: list[str] = []
        size = 0
        next_id: str | None = response_id
        while next_id is not None:
            query = select(ResponseRow.previous_response_id, ResponseRow.bytes).where(
                ResponseRow.id == next_id, ResponseRow.owner == owner, ResponseRow.expires_at > now
            )
            found = self.session.execute(query).first()
            if found is None:
                raise MissingResponseError(next_id)
            ids.append(next_id)
            next_id, size = found.previous_response_id, size + found.bytes
            if len(ids) > MAX_CHAIN_RESPONSES or size > MAX_CHAIN_BYTES:
                raise ChainLimitError(
                    f"the conversation has more than {MAX_CHAIN_RESPONSES} responses or {MAX_CHAIN_BYTES} bytes",
                    "start a new conversation with a summary of this one",
                )
        return self.all(ResponseRow.id.in_(ids))

    def delete(self, response_id: str) -> None:
        """Delete a response; those that continue its conversation stay."""
        self.session.execute(delete(ResponseRow).where(ResponseRow.id == response_id))

    def has_expired(self, now: int) -> bool:
        """Whether a response of any owner has expired."""
        return self.session.scalar(select(ResponseRow.seq).where(ResponseRow.expires_at <= now).limit(1)) is not None

    def delete_expired(self, now: int) -> None:
        """Delete the responses of all owners that have expired."""
        self.session.execute(delete(ResponseRow).where(ResponseRow.expires_at <= now))
