"""A journal that records after the call, as most clients do: the test double that must fail."""

from __future__ import annotations

from typing import Any

from ftpipe.registry import registry
from ftpipe.registry.journal import Journal, Operation, OperationState


class CallThenRecordJournal(Journal):
    """A journal that writes nothing before the call."""

    def find(self, key: str) -> Operation | None:
        """Only what was confirmed is known."""
        operation = super().find(key)
        return operation if operation and operation.state == OperationState.CONFIRMED else None

    def record_intent(self, *, key: str, **fields: Any) -> Operation:
        """Remember the intent in memory alone."""
        self.fields: dict[str, Any] = fields
        return Operation(key=key, state=OperationState.INTENDED, attempt=1, sent_at=self._clock(), **fields)

    def confirm(self, key: str, remote_id: str) -> None:
        """Write everything now."""
        journal = Journal(self._engine, self._clock)
        journal.record_intent(key=key, **self.fields)
        journal.confirm(key, remote_id)

    def reject(self, key: str, why: str) -> None:
        """Nothing was written that could be taken back."""

    def mark_unknown(self, key: str, why: str) -> None:
        """Nothing was written that could be doubted."""


def call_then_record() -> None:
    """Use this journal from now on in this process."""
    vars(registry)["Journal"] = CallThenRecordJournal
