"""Every finding of a file on its way out, in a temporary file, so that memory stays bounded however many there are."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator

from ftpipe.dataset.rules import find_rule
from ftpipe.dataset.scan.tally import RawFinding, Tally
from ftpipe.errors import LocalStateError
from ftpipe.records import Finding, Fix, Severity


def finding_of(found: RawFinding, file: str) -> Finding:
    """The record of a finding.

    Raises:
        LocalStateError: The rule is not in the table, which a test excludes.
    """
    rule = find_rule(found.code)
    if rule is None:
        raise LocalStateError(f"The rule {found.code} is missing.", "Install ftpipe again.")
    return Finding(
        code=found.code,
        name=rule.name,
        severity=Severity(found.level),
        line=found.line,
        path=found.path,
        message=found.message,
        hint=found.hint,
        excerpt=found.excerpt,
        origin=rule.origin,
        evidence=rule.evidence,
        file=file,
        record_sha256=found.record_sha256,
        count=found.times,
        fix=Fix(kind=rule.fix[0], note=rule.fix[1]) if rule.fix else None,
    )


OnFinding = Callable[[Finding], None]


class FindingSpool:
    """Takes findings while a file is read, and gives them back when it is known which of them count."""

    def __init__(self) -> None:
        # Where a reading breaks off before it is closed, it goes with the object.
        self._file = tempfile.TemporaryFile("w+", encoding="ascii", prefix="ftpipe-")  # noqa: SIM115

    def append(self, tally: Tally) -> None:
        """Move what a tally has gathered into the file."""
        self._file.writelines(json.dumps(found) + "\n" for found in tally.spilled)
        tally.spilled.clear()

    def replay(self, tally: Tally, file: str, on_finding: OnFinding) -> None:
        """Hand on every finding whose rule is still counted, as a record."""
        counted = {code for code, _ in tally.counts}
        for found in self._all():
            if found.code in counted:
                on_finding(finding_of(found, file))

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def _all(self) -> Iterator[RawFinding]:
        self._file.seek(0)
        for line in self._file:
            yield RawFinding(*json.loads(line))
