"""What is to be scanned, and what was learnt from a part of it; both travel between processes."""

from __future__ import annotations

import datetime as dt
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ftpipe.dataset.check_settings import CheckSettings
from ftpipe.dataset.duplicates.fingerprint_store import empty_buckets, shift_lines
from ftpipe.dataset.scan.statistics import DatasetStatistics, TokenHistogram
from ftpipe.dataset.scan.tally import Tally


@dataclass(frozen=True, slots=True)
class ScanPlan:
    """Everything that a process needs to scan a part of a file."""

    path: Path
    name: str
    target: str
    method: str | None
    model: str
    format: str
    role: Literal["train", "validation"]
    today: dt.date
    encoding: str
    token_limit: int | None
    size: int
    has_bom: bool
    grader_fields: tuple[str, ...]
    settings: CheckSettings
    collect_lines: bool = False
    """Remember every line of every rule, for fixes and quarantine."""


@dataclass(slots=True)
class PartialScan:
    """What was learnt from a part of a file. Line numbers count from the part's beginning."""

    tally: Tally
    lines: int = 0
    examples: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    tokens: TokenHistogram = field(default_factory=TokenHistogram)
    with_images: int = 0
    content: DatasetStatistics = field(default_factory=DatasetStatistics)
    unterminated: bool = False
    prints: list[array[int]] = field(default_factory=empty_buckets)
    """For each record four numbers: line, hash of the record, of its prompt, of its answer; in buckets by prompt."""

    @classmethod
    def of(cls, plan: ScanPlan) -> PartialScan:
        """An empty part of the file that is scanned."""
        return cls(Tally(plan.settings, plan.target, plan.today, lines={} if plan.collect_lines else None))

    def merge(self, other: PartialScan, *, keep_prints: bool = False) -> None:
        """Add the part that follows this one; its fingerprints only where they are kept here."""
        self.tally.merge(other.tally, self.lines)
        self.tokens.merge(other.tokens, self.lines)
        self.content.merge(other.content, self.lines)
        if keep_prints:
            for mine, theirs in zip(self.prints, other.prints, strict=True):
                mine += shift_lines(theirs, self.lines)
        self.lines += other.lines
        self.examples += other.examples
        self.shapes.update(other.shapes)
        self.with_images += other.with_images
        self.unterminated = other.unterminated
