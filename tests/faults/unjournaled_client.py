"""The order that every peer uses, as a test double: call first, write down afterwards."""

from __future__ import annotations

from typing import Any

from ftpipe.registry import registry
from ftpipe.registry.journal import Journal, Operation, OperationState


class CallThenRecordJournal(Journal):
    """A journal that writes nothing before the call."""

    def find(self, key: str) -> Operation | None:
        """Only what was confirmed is known."""
        found = super().find(key)
        return found if found and found.state == OperationState.CONFIRMED else None

    def record_intent(self, *, key: str, **fields: Any) -> Operation:
        """Remember the intent in memory alone."""
        self.fields: dict[str, Any] = fields
        return Operation(key=key, state=OperationState.INTENDED, attempt=1, sent_at=self._clock(), **fields)

    def confirm(self, key: str, remote_id: str) -> None:
        """Write everything now."""
        honest = Journal(self._engine, self._clock)
        honest.record_intent(key=key, **self.fields)
        honest.confirm(key, remote_id)

    def reject(self, key: str, why: str) -> None:
        """Nothing was written that could be taken back."""

    def mark_unknown(self, key: str, why: str) -> None:
        """Nothing was written that could be doubted."""


def call_then_record() -> None:
    """Use this journal from now on in this process."""
    vars(registry)["Journal"] = CallThenRecordJournal
