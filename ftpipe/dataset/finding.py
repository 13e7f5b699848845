"""Makes the record of a finding, in the process that reports it; those that scan need no records."""

from __future__ import annotations

from ftpipe.dataset.rules import find_rule
from ftpipe.dataset.tally import RawFinding
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
