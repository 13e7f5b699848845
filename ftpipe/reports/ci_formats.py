"""Findings in the formats of CI systems: GitHub annotations, SARIF, GitLab code quality, JUnit, and JSON lines."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ftpipe.formatting import sanitize_line
from ftpipe.records import Finding, Report, Severity
from ftpipe.reports.findings import common_hint, finding_lines, format_location, headline, markdown, sort_by_severity
from ftpipe.reports.json_output import dump
from ftpipe.reports.junit import JUnitCase, JUnitSuite, junit_xml

MAX_GITHUB_PER_LEVEL = 10
"""Annotations that GitHub shows per level and step. Source: second-hand, 2026-11-24."""
MAX_SARIF_RESULTS = 5_000
"""Results per run that GitHub accepts. Source: GitHub SARIF documentation, 2026-11-24."""
MAX_SARIF_PER_RULE = 1_000
"""Results of one rule, so that one rule cannot displace the others."""
MAX_JUNIT_LOCATIONS = 20
"""Locations listed in one case."""
_GITHUB = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}
_SARIF = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_GITLAB = {Severity.ERROR: "critical", Severity.WARNING: "minor", Severity.INFO: "info"}
Reports = Sequence[Report]


def findings_by_severity(reports: Reports) -> list[tuple[Report, Finding]]:
    """The findings of all files, each with its report, errors first."""
    findings = [(report, f) for report in reports for group in sort_by_severity(report) for f in group]
    order = list(Severity)
    return sorted(findings, key=lambda pair: order.index(pair[1].severity))


def full_message(finding: Finding) -> str:
    """``path: message``, or the message alone if there is no path."""
    return f"{finding.path}: {finding.message}" if finding.path else finding.message


def file_path(report: Report, finding: Finding) -> str:
    """The path of the file with the finding, relative to the working directory if it is inside."""
    for dataset in (report.dataset, report.validation):
        if dataset is not None and dataset.path.name == finding.file:
            path, here = dataset.path, Path.cwd()
            return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()
    return finding.file


def github(reports: Reports) -> str:
    """Workflow commands for GitHub Actions: errors first, at most ten of each level."""
    lines, shown = [], Counter[Severity]()
    for report, finding in findings_by_severity(reports):
        shown[finding.severity] += 1
        if shown[finding.severity] > MAX_GITHUB_PER_LEVEL:
            continue
        fields = {"title": f"ftpipe ({finding.code} {finding.name})", "file": file_path(report, finding)}
        if finding.line:
            fields["line"] = str(finding.line)
        head = ",".join(f"{key}={_escape(value, is_property=True)}" for key, value in fields.items())
        lines.append(f"::{_GITHUB[finding.severity]} {head}::{_escape(sanitize_line(full_message(finding), 500))}")
    return "\n".join(lines) + ("\n" if lines else "")


def _escape(text: str, *, is_property: bool = False) -> str:
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return escaped.replace(":", "%3A").replace(",", "%2C") if is_property else escaped


def sarif(reports: Reports) -> str:
    """A SARIF 2.1.0 document, for code scanning; the exact counts are in the properties of the run."""
    per_rule = Counter[str]()
    reported: list[tuple[Report, Finding]] = []
    for report, finding in findings_by_severity(reports):
        per_rule[finding.code] += 1
        if per_rule[finding.code] <= MAX_SARIF_PER_RULE and len(reported) < MAX_SARIF_RESULTS:
            reported.append((report, finding))
    by_code: dict[str, list[Finding]] = {}
    for _, finding in reported:
        by_code.setdefault(finding.code, []).append(finding)
    rules = [
        {"id": code, "name": same[0].name, "help": {"text": common_hint(same) or same[0].name}}
        for code, same in by_code.items()
    ]
    run = {
        "tool": {"driver": {"name": "ftpipe", "rules": rules}},
        "results": [_sarif_result(report, finding) for report, finding in reported],
        "properties": {
            "counts": dict(sum((Counter(report.summary.counts) for report in reports), Counter[str]())),
            "datasets": [report.dataset.sha256 for report in reports],
        },
    }
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _sarif_result(report: Report, finding: Finding) -> dict[str, object]:
    location: dict[str, object] = {"artifactLocation": {"uri": file_path(report, finding)}}
    if finding.line:
        location["region"] = {"startLine": finding.line}
    result: dict[str, object] = {
        "ruleId": finding.code,
        "level": _SARIF[finding.severity],
        "message": {"text": sanitize_line(full_message(finding), 1000)},
        "locations": [{"physicalLocation": location}],
    }
    if finding.record_sha256:
        result["partialFingerprints"] = {"record/v1": f"{finding.code}:{finding.record_sha256}"}
    return result


def gitlab(reports: Reports) -> str:
    """A GitLab code quality report: one array, with fingerprints that do not depend on the order of the lines."""
    occurrences = Counter[str]()
    issues = []
    for report, finding in findings_by_severity(reports):
        file = file_path(report, finding)
        identity = "|".join((finding.code, file, finding.path, finding.record_sha256 or full_message(finding)))
        occurrences[identity] += 1
        issues.append({
            "description": sanitize_line(full_message(finding), 1000),
            "check_name": f"{finding.code} {finding.name}",
            "fingerprint": hashlib.sha256(f"{identity}|{occurrences[identity]}".encode("utf-8", "replace")).hexdigest(),
            "severity": _GITLAB[finding.severity],
            "location": {"path": file, "lines": {"begin": finding.line or 1}},
        })  # fmt: skip
    return json.dumps(issues, indent=2) + "\n"


def junit(reports: Reports) -> str:
    """JUnit XML: a suite for each file, with a case for its verdict and one for each rule that has findings.

    Rules with errors are failures. Rules with warnings and notes are listed as skipped: visible, without failing.
    """
    return junit_xml([_junit_suite(report) for report in reports])


def _junit_suite(report: Report) -> JUnitSuite:
    name = sanitize_line(report.dataset.path.name, 200)
    verdict = JUnitCase(name, "verdict", "passed" if report.ok else "failure", message=headline(report))
    return JUnitSuite(name, [verdict, *(_junit_case(name, report, group) for group in sort_by_severity(report))])


def _junit_case(file: str, report: Report, group: list[Finding]) -> JUnitCase:
    first = group[0]
    number = report.summary.counts.get(first.code, len(group))
    hint = common_hint(group)
    lines = [
        sanitize_line(f"{format_location(f)}: {f.message}{'' if hint else f' {f.hint}'}", 500)
        for f in group[:MAX_JUNIT_LOCATIONS]
    ]
    lines += [f"… {number:,} in total"] if number > len(lines) else []
    return JUnitCase(
        file,
        f"{first.code} {first.name} ({first.severity.value})",
        "failure" if first.severity is Severity.ERROR else "skipped",
        message=sanitize_line(f"{number:,} × {hint or first.name}", 500),
        details="\n".join(lines),
    )


def ndjson_line(finding: Finding) -> str:
    """One finding as one line of ASCII JSON, without the newline."""
    fields: dict[str, Any] = finding.model_dump(mode="json")
    return dump(fields, indent=None)


FORMATS: dict[str, Callable[[Reports], str]] = {
    "text": lambda reports: "".join("\n".join([*finding_lines(one), headline(one)]) + "\n" for one in reports),
    "github": github,
    "sarif": sarif,
    "gitlab": gitlab,
    "junit": junit,
    "md": lambda reports: "\n".join(markdown(report) for report in reports),
}
"""Output format → function that renders all reports. ``json`` and ``ndjson`` are written by the command."""
