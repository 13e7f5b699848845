"""Findings for continuous integration: GitHub annotations, SARIF, GitLab code quality, JUnit, and one JSON a line."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

from ftpipe.formatting import sanitize_line, xml_text
from ftpipe.records import Finding, Report, Severity
from ftpipe.reports.findings import finding_lines, headline, markdown, place_of, sort_by_severity
from ftpipe.reports.json_output import dump

GITHUB_PER_LEVEL = 10
"""GitHub shows ten annotations per level and step. Source: second-hand, 2026-11-24."""
SARIF_MAX = 5_000
"""Results that GitHub keeps of a run. Source: GitHub SARIF documentation, 2026-11-24."""
SARIF_PER_RULE = 1_000
"""Results of one rule, so that one rule does not leave the others out."""
JUNIT_PLACES = 20
"""Places named in one case."""
_GITHUB = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}
_SARIF = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_GITLAB = {Severity.ERROR: "critical", Severity.WARNING: "minor", Severity.INFO: "info"}
Reports = Sequence[Report]


def worst(reports: Reports) -> list[tuple[Report, Finding]]:
    """The findings of all files with their reports, errors first."""
    found = [(report, f) for report in reports for group in sort_by_severity(report) for f in group]
    order = list(Severity)
    return sorted(found, key=lambda pair: order.index(pair[1].severity))


def text_of(finding: Finding) -> str:
    """``path: message``, as far as there is a path."""
    return f"{finding.path}: {finding.message}" if finding.path else finding.message


def file_of(report: Report, finding: Finding) -> str:
    """The path of the file that a finding is about, relative to the working folder where it lies below it."""
    for dataset in (report.dataset, report.validation):
        if dataset is not None and dataset.path.name == finding.file:
            path, here = dataset.path, Path.cwd()
            return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()
    return finding.file


def github(reports: Reports) -> str:
    """Workflow commands for GitHub Actions, at most ten of each level, the worst first."""
    lines, shown = [], Counter[Severity]()
    for report, finding in worst(reports):
        shown[finding.severity] += 1
        if shown[finding.severity] > GITHUB_PER_LEVEL:
            continue
        fields = {"title": f"ftpipe ({finding.code} {finding.name})", "file": file_of(report, finding)}
        if finding.line:
            fields["line"] = str(finding.line)
        head = ",".join(f"{key}={_escape(value, is_property=True)}" for key, value in fields.items())
        lines.append(f"::{_GITHUB[finding.severity]} {head}::{_escape(sanitize_line(text_of(finding), 500))}")
    return "\n".join(lines) + ("\n" if lines else "")


def _escape(text: str, *, is_property: bool = False) -> str:
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return escaped.replace(":", "%3A").replace(",", "%2C") if is_property else escaped


def sarif(reports: Reports) -> str:
    """A SARIF 2.1.0 document, for code scanning; the exact counts are in the run's properties."""
    of_rule = Counter[str]()
    kept: list[tuple[Report, Finding]] = []
    for report, finding in worst(reports):
        of_rule[finding.code] += 1
        if of_rule[finding.code] <= SARIF_PER_RULE and len(kept) < SARIF_MAX:
            kept.append((report, finding))
    rules = {f.code: {"id": f.code, "name": f.name, "help": {"text": f.hint or f.name}} for _, f in kept}
    run = {
        "tool": {"driver": {"name": "ftpipe", "rules": list(rules.values())}},
        "results": [_sarif_result(report, finding) for report, finding in kept],
        "properties": {
            "counts": dict(sum((Counter(report.summary.counts) for report in reports), Counter[str]())),
            "datasets": [report.dataset.sha256 for report in reports],
        },
    }
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _sarif_result(report: Report, finding: Finding) -> dict[str, object]:
    location: dict[str, object] = {"artifactLocation": {"uri": file_of(report, finding)}}
    if finding.line:
        location["region"] = {"startLine": finding.line}
    result: dict[str, object] = {
        "ruleId": finding.code,
        "level": _SARIF[finding.severity],
        "message": {"text": sanitize_line(text_of(finding), 1000)},
        "locations": [{"physicalLocation": location}],
    }
    if finding.record_sha256:
        result["partialFingerprints"] = {"record/v1": f"{finding.code}:{finding.record_sha256}"}
    return result


def gitlab(reports: Reports) -> str:
    """A GitLab code quality report: one array, fingerprints that survive reordering."""
    seen = Counter[str]()
    made = []
    for report, finding in worst(reports):
        file = file_of(report, finding)
        mark = "|".join((finding.code, file, finding.path, finding.record_sha256 or text_of(finding)))
        seen[mark] += 1
        made.append({
            "description": sanitize_line(text_of(finding), 1000),
            "check_name": f"{finding.code} {finding.name}",
            "fingerprint": hashlib.sha256(f"{mark}|{seen[mark]}".encode("utf-8", "replace")).hexdigest(),
            "severity": _GITLAB[finding.severity],
            "location": {"path": file, "lines": {"begin": finding.line or 1}},
        })  # fmt: skip
    return json.dumps(made, indent=2) + "\n"


def junit(reports: Reports) -> str:
    """JUnit XML: a suite for each file, a case for its verdict and one for each rule that found something.

    Rules with errors fail; those with warnings and notes are listed as skipped, so that they are seen and fail nothing.
    """
    root = Xml.Element("testsuites")
    for report in reports:
        name = xml_text(report.dataset.path.name, 200)
        suite = Xml.SubElement(root, "testsuite", name=f"ftpipe {name}")
        verdict = Xml.SubElement(suite, "testcase", classname=f"ftpipe.{name}", name="verdict")
        if not report.ok:
            Xml.SubElement(verdict, "failure", message=xml_text(headline(report), 500))
        for group in sort_by_severity(report):
            _junit_case(suite, name, report, group)
        kinds = {kind: len(suite.findall(f"./testcase/{kind}")) for kind in ("failure", "skipped")}
        suite.attrib |= {
            "tests": str(len(suite)), "failures": str(kinds["failure"]), "skipped": str(kinds["skipped"]),
            "errors": "0",
        }  # fmt: skip
    Xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(root, encoding="unicode") + "\n"


def _junit_case(suite: Xml.Element, file: str, report: Report, group: list[Finding]) -> None:
    first = group[0]
    number = report.summary.counts.get(first.code, len(group))
    title = f"{first.code} {first.name}"
    case = Xml.SubElement(suite, "testcase", classname=f"ftpipe.{file}", name=f"{title} ({first.severity.value})")
    kind = "failure" if first.severity is Severity.ERROR else "skipped"
    places = [f"{place_of(f)}: {f.message}" for f in group[:JUNIT_PLACES]]
    places += [f"… {number:,} in all"] if number > len(places) else []
    note = Xml.SubElement(case, kind, message=xml_text(f"{number:,} × {first.hint or first.name}", 500))
    note.text = "\n".join(xml_text(place, 500) for place in places)


def ndjson_line(finding: Finding) -> str:
    """One finding as one line of ASCII JSON, without its line end."""
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
"""Output format → renderer of all files of a call. ``json`` is the command's document, ``ndjson`` goes out by line."""
