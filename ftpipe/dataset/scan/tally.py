"""Counts findings exactly and keeps the first of each rule."""

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
    """A finding on its way to the report."""

    code: str
    level: Level
    line: int | None
    path: str
    message: str
    hint: str
    excerpt: str
    record_sha256: str
    times: int = 1
    """How many findings it stands for."""

    def moved(self, lines: int) -> RawFinding:
        """The same finding that many lines further down."""
        return self if self.line is None else self._replace(line=self.line + lines)


@dataclass(slots=True)
class Tally:
    """The findings of a file, or of a part of it."""

    settings: CheckSettings
    target: str
    today: dt.date
    counts: Counter[tuple[str, Level]] = field(default_factory=Counter)
    """(code, level) → exact number."""
    kept: dict[str, list[RawFinding]] = field(default_factory=dict)
    """Code → its first findings."""
    lines: dict[str, set[int]] | None = None
    """Code → lines with errors, where a quarantine needs every one; ``None`` where nobody does."""

    spilled: list[RawFinding] = field(default_factory=list)
    """Every finding, where the settings ask for it; whoever reads them clears them."""

    def add(self, rule: Rule, hits: Iterable[Violation], line: int | None = None, record: Json = None) -> None:
        """Count the hits of one rule on one record."""
        for hit in hits:
            level = self._level(rule, hit)
            if level == "off":
                continue
            sha = ""
            has_room = len(self.kept.get(rule.code, ())) < self.settings.max_findings
            if record is not None and (self.settings.ignores or has_room or self.settings.every):
                sha = record_sha256(record)
            if self.settings.ignores and any(self._covers(entry, rule.code, sha) for entry in self.settings.ignores):
                continue
            self.counts[rule.code, level] += hit.weight
            at = line if hit.line is None else hit.line
            if self.lines is not None and at is not None and level == "error":
                self.lines.setdefault(rule.code, set()).add(at)
            if has_room or self.settings.every:
                self._keep(self._found(rule, hit, level, at, sha), has_room=has_room)

    def _found(self, rule: Rule, hit: Violation, level: Level, line: int | None, sha: str) -> RawFinding:
        excerpt, hint = hit.excerpt[:EXCERPT_CHARACTERS], hit.hint or rule.hint
        return RawFinding(rule.code, level, line, hit.path, hit.message, hint, excerpt, sha, hit.weight)

    def _keep(self, found: RawFinding, *, has_room: bool) -> None:
        kept = self.kept.setdefault(found.code, [])
        if has_room:
            kept.append(found)
        if self.settings.every:
            self.spilled.append(found)

    def _level(self, rule: Rule, hit: Violation) -> Level:
        chosen = self.settings.thresholds.get(rule.code)
        if chosen is not None and chosen.level is not None:
            return chosen.level
        own = rule.level_for(self.target)
        return own if hit.level is None or own == "off" else hit.level

    def _covers(self, entry: Ignore, code: str, sha: str) -> bool:
        if not code.startswith(entry.rule) or (entry.record and entry.record != sha):
            return False
        return entry.expires is None or entry.expires >= self.today

    def merge(self, other: Tally, first_line: int) -> None:
        """Add the findings of a later part whose lines begin behind ``first_line``."""
        self.counts.update(other.counts)
        for code, found in other.kept.items():
            kept = self.kept.setdefault(code, [])
            room = self.settings.max_findings - len(kept)
            kept += [f.moved(first_line) for f in found[:room]]
        self.spilled += [f.moved(first_line) for f in other.spilled]
        if self.lines is not None:
            for code, lines in (other.lines or {}).items():
                self.lines.setdefault(code, set()).update(line + first_line for line in lines)

    def apply_thresholds(self, examples: int) -> None:
        """Leave out rules whose share of the records stays within the user's threshold."""
        for code, threshold in self.settings.thresholds.items():
            number = sum(n for (c, _), n in self.counts.items() if c == code)
            if threshold.max_share and examples and number / examples <= threshold.max_share:
                self.kept.pop(code, None)
                for key in [key for key in self.counts if key[0] == code]:
                    del self.counts[key]


def record_sha256(record: Json) -> str:
    """SHA-256 of the canonical record; empty for what has no canonical form."""
    try:
        return hashlib.sha256(canonical_json(record)).hexdigest()
    except TypeError:
        return ""
