"""Turns raw findings into records of the report, and spools them in a temporary file so that memory stays bounded."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator

from ftpipe.dataset.rules import find_rule
from ftpipe.dataset.scan.context import OnFinding
from ftpipe.dataset.scan.tally import RawFinding, Tally
from ftpipe.errors import LocalStateError
from ftpipe.records import Finding, Fix, Severity


def finding_of(raw: RawFinding, file: str) -> Finding:
    """The record of a finding.

    Raises:
        LocalStateError: The rule is not in the table; a test excludes this.
    """
    rule = find_rule(raw.code)
    if rule is None:
        raise LocalStateError(f"The rule {raw.code} is missing.", "Install ftpipe again.")
    return Finding(
        code=raw.code,
        name=rule.name,
        severity=Severity(raw.level),
        line=raw.line,
        path=raw.path,
        message=raw.message,
        hint=raw.hint,
        excerpt=raw.excerpt,
        origin=rule.origin,
        evidence=rule.evidence,
        file=file,
        record_sha256=raw.record_sha256,
        count=raw.number,
        fix=Fix(kind=rule.fix[0], note=rule.fix[1]) if rule.fix else None,
    )


class FindingSpool:
    """Holds findings while a file is read, and replays them once it is known which rules count."""

    def __init__(self) -> None:
        # It is removed with the object if the scan is interrupted before it is closed.
        self._file = tempfile.TemporaryFile("w+", encoding="ascii", prefix="ftpipe-")  # noqa: SIM115

    def append(self, tally: Tally) -> None:
        """Move what a tally has collected into the file."""
        self._file.writelines(json.dumps(finding) + "\n" for finding in tally.collected)
        tally.collected.clear()

    def replay(self, tally: Tally, file: str, on_finding: OnFinding) -> None:
        """Pass on every finding whose rule is still counted, as a record."""
        codes = {code for code, _ in tally.counts}
        for finding in self._all():
            if finding.code in codes:
                on_finding(finding_of(finding, file))

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def _all(self) -> Iterator[RawFinding]:
        self._file.seek(0)
        for line in self._file:
            yield RawFinding(*json.loads(line))
