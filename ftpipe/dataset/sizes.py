"""The distribution of tokens over records: exact percentiles from a histogram, and the longest records."""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

KEEP_LONGEST = 50
FEW_RECORDS = 100


class OverlongRecord(NamedTuple):
    """A record that is longer than the target reads."""

    tokens: int
    limit: int
    last_role: str
    last_path: str


@dataclass(slots=True)
class TokenHistogram:
    """Token counts of the records of a file."""

    totals: Counter[int] = field(default_factory=Counter)
    """Tokens of a record → number of such records."""
    answers: Counter[int] = field(default_factory=Counter)
    """Trained tokens of a record → number of such records."""
    turns: Counter[int] = field(default_factory=Counter)
    """Messages of a record → number of such records."""
    longest: list[tuple[int, int]] = field(default_factory=list)
    """The longest records as (tokens, -line), a heap."""
    images: int = 0
    fresh: array[int] = field(default_factory=lambda: array("Q"))
    """Tokens and trained tokens of records that ``totals`` and ``answers`` do not have yet."""

    def add(self, tokens: int, trained: int, turns: int, line: int) -> None:
        """Count one record; the figures have it once this was merged into those of the whole file."""
        self.fresh.extend((tokens, trained))
        self.turns[turns] += 1
        item = (tokens, -line)
        if len(self.longest) < KEEP_LONGEST:
            heapq.heappush(self.longest, item)
        elif item > self.longest[0]:
            heapq.heapreplace(self.longest, item)

    def merge(self, other: TokenHistogram, first_line: int) -> None:
        """Add another part of the file whose line numbers begin behind ``first_line``."""
        for mine, theirs, at in ((self.totals, other.totals, 0), (self.answers, other.answers, 1)):
            mine.update(theirs)
            mine.update(other.fresh[at::2])
        self.turns.update(other.turns)
        self.images += other.images
        moved = [(tokens, line - first_line) for tokens, line in other.longest]
        self.longest = heapq.nlargest(KEEP_LONGEST, [*self.longest, *moved])
        heapq.heapify(self.longest)

    @property
    def examples(self) -> int:
        """Records counted."""
        return self.totals.total()

    @property
    def total(self) -> int:
        """All tokens."""
        return sum(tokens * n for tokens, n in self.totals.items())

    @property
    def trained(self) -> int:
        """All trained tokens."""
        return sum(tokens * n for tokens, n in self.answers.items())

    def billable(self, limit: int | None) -> int:
        """All tokens, each record cut at the limit."""
        return sum((tokens if limit is None else min(tokens, limit)) * n for tokens, n in self.totals.items())

    def over(self, limit: int | None) -> int:
        """Records longer than the limit."""
        return 0 if limit is None else sum(n for tokens, n in self.totals.items() if tokens > limit)

    def percentile(self, share: float) -> int:
        """The smallest count that at least ``share`` (0 to 1) of the records do not exceed (nearest rank)."""
        wanted = max(1, -int(-share * self.examples // 1))
        seen = 0
        for tokens in sorted(self.totals):
            seen += self.totals[tokens]
            if seen >= wanted:
                return tokens
        return 0

    def longest_first(self) -> list[tuple[int, int]]:
        """The longest records as (tokens, line), the longest first, earlier lines first among equals."""
        return [(tokens, -line) for tokens, line in sorted(self.longest, reverse=True)]

    def outlier_bound(self) -> tuple[int, str]:
        """Above how many tokens a record stands out, and the rule's words.

        In fewer than 100 records the 99th percentile is the longest record itself, so the median decides there.
        """
        if self.examples < 4:
            return 0, ""
        if self.examples >= FEW_RECORDS:
            return self.percentile(0.99) * 3, "three times the 99th percentile"
        return self.percentile(0.5) * 10, "ten times the median"
