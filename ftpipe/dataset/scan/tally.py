"""Counts findings exactly and retains the first ones of each rule."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from ftpipe.canonical_json import canonical_json
from ftpipe.dataset.check_settings import CheckSettings, Ignore, Level
from ftpipe.dataset.json_line import Json
from ftpipe.dataset.rules.base import Rule, Violation

EXCERPT_CHARACTERS = 160


class RawFinding(NamedTuple):
    """A finding before it becomes a record of the report."""

    code: str
    level: Level
    line: int | None
    path: str
    message: str
    hint: str
    excerpt: str
    record_sha256: str
    number: int = 1
    """How many findings it stands for."""

    def shifted(self, lines: int) -> RawFinding:
        """The same finding, that many lines further down."""
        return self if self.line is None else self._replace(line=self.line + lines)


@dataclass(slots=True)
class Tally:
    """The findings of a file, or of a part of it."""

    settings: CheckSettings
    target: str
    today: dt.date
    counts: Counter[tuple[str, Level]] = field(default_factory=Counter)
    """(code, level) → exact number."""
    retained: dict[str, list[RawFinding]] = field(default_factory=dict)
    """Code → its first findings."""
    error_lines: dict[str, set[int]] | None = None
    """Code → all lines with errors, if a quarantine needs them."""
    collects_every_finding: bool = False
    collected: list[RawFinding] = field(default_factory=list)
    """Every finding, if requested; whoever reads the list clears it."""

    def add(self, rule: Rule, violations: Iterable[Violation], line: int | None = None, record: Json = None) -> None:
        """Count the violations of one rule by one record."""
        settings = self.settings
        for violation in violations:
            level = self._level(rule, violation)
            if level == "off":
                continue
            sha256 = ""
            is_retained = len(self.retained.get(rule.code, ())) < settings.max_findings
            if record is not None and (settings.ignores or is_retained or self.collects_every_finding):
                sha256 = record_sha256(record)
            if settings.ignores and any(self._covers(entry, rule.code, sha256) for entry in settings.ignores):
                continue
            self.counts[rule.code, level] += violation.weight
            at_line = line if violation.line is None else violation.line
            if self.error_lines is not None and at_line is not None and level == "error":
                self.error_lines.setdefault(rule.code, set()).add(at_line)
            if is_retained or self.collects_every_finding:
                finding = _raw_finding(rule, violation, level, at_line, sha256)
                if is_retained:
                    self.retained.setdefault(rule.code, []).append(finding)
                if self.collects_every_finding:
                    self.collected.append(finding)

    def _level(self, rule: Rule, violation: Violation) -> Level:
        threshold = self.settings.thresholds.get(rule.code)
        if threshold is not None and threshold.level is not None:
            return threshold.level
        level = rule.level_for(self.target)
        return level if violation.level is None or level == "off" else violation.level

    def _covers(self, entry: Ignore, code: str, sha256: str) -> bool:
        if not code.startswith(entry.rule) or (entry.record and entry.record != sha256):
            return False
        return entry.expires is None or entry.expires >= self.today

    def merge(self, other: Tally, first_line: int) -> None:
        """Add the findings of a later part, which begins after line ``first_line``."""
        self.counts.update(other.counts)
        for code, findings in other.retained.items():
            retained = self.retained.setdefault(code, [])
            free = self.settings.max_findings - len(retained)
            retained += [finding.shifted(first_line) for finding in findings[:free]]
        self.collected += [finding.shifted(first_line) for finding in other.collected]
        if self.error_lines is not None:
            for code, lines in (other.error_lines or {}).items():
                self.error_lines.setdefault(code, set()).update(line + first_line for line in lines)

    def apply_thresholds(self, examples: int) -> None:
        """Drop rules whose share of the records stays within the user's threshold."""
        for code, threshold in self.settings.thresholds.items():
            number = sum(n for (counted_code, _), n in self.counts.items() if counted_code == code)
            if threshold.max_share and examples and number / examples <= threshold.max_share:
                self.retained.pop(code, None)
                for key in [key for key in self.counts if key[0] == code]:
                    del self.counts[key]

    def all_retained(self) -> list[RawFinding]:
        """The retained findings of all rules."""
        return [finding for findings in self.retained.values() for finding in findings]


def _raw_finding(rule: Rule, violation: Violation, level: Level, line: int | None, sha256: str) -> RawFinding:
    excerpt, hint = violation.excerpt[:EXCERPT_CHARACTERS], violation.hint or rule.hint
    return RawFinding(
        rule.code, level, line, violation.path, violation.message, hint, excerpt, sha256, violation.weight
    )


def record_sha256(record: Json) -> str:
    """SHA-256 of the canonical record; empty if it has no canonical form."""
    try:
        return hashlib.sha256(canonical_json(record)).hexdigest()
    except TypeError:
        return ""
