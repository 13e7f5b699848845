"""Queries over the tables of shadow traffic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, defer

from ftpipe.server.clock import now
from ftpipe.server.storage.tables import ShadowPairRow, ShadowResultRow


@dataclass(frozen=True, slots=True)
class ShadowCounts:
    """What happened to the chats of a pair since the last time that this was stored."""

    chats: int = 0
    dropped: int = 0
    unpaid: int = 0

    def __add__(self, other: ShadowCounts) -> ShadowCounts:
        return ShadowCounts(self.chats + other.chats, self.dropped + other.dropped, self.unpaid + other.unpaid)


class ShadowRepository:
    """The tables of pairs and of their mirrored chats.

    Args:
        session: Its transaction is that of all calls.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    def add_counts(self, owner: str, old: str, new: str, share: float, counts: ShadowCounts) -> int:
        """Add to the counts of a pair, which is created if it is new, and return its id."""
        conditions = (ShadowPairRow.owner == owner, ShadowPairRow.old == old, ShadowPairRow.new == new)
        pair = self.session.scalars(select(ShadowPairRow).where(*conditions)).first()
        if pair is None:
            pair = ShadowPairRow(owner, old, new, started_at=now(), updated_at=now(), share=share)
            self.session.add(pair)
        pair.share, pair.updated_at = share, now()
        pair.chats += counts.chats
        pair.dropped += counts.dropped
        pair.unpaid += counts.unpaid
        self.session.flush()
        return pair.id

    def add(self, row: ShadowResultRow) -> int:
        """Insert a mirrored chat, and return its id."""
        self.session.add(row)
        self.session.flush()
        return row.id

    def update(self, result_id: int, **values: Any) -> None:
        """Set columns of one mirrored chat."""
        self.session.execute(update(ShadowResultRow).where(ShadowResultRow.id == result_id).values(**values))

    def total_cost(self) -> float:
        """What all new models' answers have cost; what may have been paid counts."""
        return float(self.session.scalar(select(func.sum(ShadowResultRow.new_cost))) or 0.0)

    def pairs(self) -> list[ShadowPairRow]:
        """All pairs, in the order in which they were started."""
        return list(self.session.scalars(select(ShadowPairRow).order_by(ShadowPairRow.id)))

    def results(self, pair_id: int) -> Iterator[ShadowResultRow]:
        """The mirrored chats of a pair, oldest first, without the texts that are kept of them."""
        query = select(ShadowResultRow).where(ShadowResultRow.pair_id == pair_id).order_by(ShadowResultRow.id)
        yield from self.session.scalars(query.options(defer(ShadowResultRow.texts)).execution_options(yield_per=1000))
