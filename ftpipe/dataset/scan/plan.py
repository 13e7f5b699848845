"""What a process needs to scan a part of a file, and what it learns from it; both are sent between processes."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ftpipe.dataset.duplicates.fingerprint_store import empty_buckets, shift_lines
from ftpipe.dataset.file_context import FileContext
from ftpipe.dataset.scan.statistics import DatasetStatistics, TokenHistogram
from ftpipe.dataset.scan.tally import Tally


@dataclass(frozen=True, slots=True)
class ScanPlan:
    """What to scan, and how."""

    path: Path
    file: FileContext
    encoding: str
    collect_lines: bool = False
    """Remember every line with an error, for fixes and quarantine."""
    collect_every_finding: bool = False
    """Pass on every finding, not only those that the report lists."""
    collect_row_tokens: bool = False
    """Pass on the tokens of each record."""


@dataclass(slots=True)
class PartialScan:
    """What was learnt from a part of a file. Line numbers count from the beginning of the part."""

    tally: Tally
    lines: int = 0
    examples: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    tokens: TokenHistogram = field(default_factory=TokenHistogram)
    row_tokens: array[int] = field(default_factory=lambda: array("Q"))
    """Line, tokens and trained tokens of each record, if they are collected; whoever reads them clears it."""
    with_images: int = 0
    content: DatasetStatistics = field(default_factory=DatasetStatistics)
    is_unterminated: bool = False
    fingerprints: list[array[int]] = field(default_factory=empty_buckets)
    """See ``duplicates.fingerprint_store``; in buckets by prompt."""

    @classmethod
    def of(cls, plan: ScanPlan) -> PartialScan:
        """An empty part of the file."""
        file = plan.file
        return cls(
            Tally(
                file.settings, file.target, file.today,
                error_lines={} if plan.collect_lines else None, collects_every_finding=plan.collect_every_finding,
            )
        )  # fmt: skip

    def merge(self, other: PartialScan, *, merge_fingerprints: bool = False) -> None:
        """Add the part that follows this one."""
        self.tally.merge(other.tally, self.lines)
        self.tokens.merge(other.tokens, self.lines)
        self.row_tokens.extend(
            value if index % 3 else value + self.lines for index, value in enumerate(other.row_tokens)
        )
        self.content.merge(other.content, self.lines)
        if merge_fingerprints:
            for own, others in zip(self.fingerprints, other.fingerprints, strict=True):
                own += shift_lines(others, self.lines)
        self.lines += other.lines
        self.examples += other.examples
        self.shapes.update(other.shapes)
        self.with_images += other.with_images
        self.is_unterminated = other.is_unterminated
