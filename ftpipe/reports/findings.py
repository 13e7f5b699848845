"""The findings of a report for people and for machines: text, GitHub annotations, SARIF, Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import groupby

from ftpipe.records import Finding, Report, Severity
from ftpipe.reports.plain import Paint, clean, plain

SHOWN_PER_RULE = 3
GITHUB_PER_LEVEL = 10
"""GitHub shows ten annotations per level and step. Source: second-hand, 2026-11-24."""
SARIF_MAX = 5_000
"""Results that GitHub keeps of a run. Source: GitHub SARIF documentation, 2026-11-24."""
_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}
_GITHUB = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}
_SARIF = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def worst_first(report: Report) -> list[list[Finding]]:
    """The findings by rule, errors first, in each rule by line."""
    ordered = sorted(report.findings, key=lambda f: (_ORDER[f.severity], f.code, f.file, f.line or 0))
    return [list(group) for _, group in groupby(ordered, key=lambda f: (f.severity, f.code))]


def headline(report: Report) -> str:
    """One sentence: whether the target would take the file, and where the first error is."""
    name, summary = clean(report.dataset.path.name), report.summary
    rest = ", ".join(
        f"{number:,} {word}{'s' if number != 1 else ''}"
        for number, word in ((summary.warnings, "warning"), (summary.infos, "note"))
        if number
    )
    after = f" {rest}." if rest else ""
    if not summary.errors:
        return f"{report.target} would take {name}.{after}"
    first = next((f for f in report.findings if f.severity is Severity.ERROR and f.line), None)
    place = f", first at line {first.line}" if first else ""
    count = f"{summary.errors:,} error{'s' if summary.errors != 1 else ''}"
    return f"{report.target} would not take {name}: {count}{place}.{after}"


def place_of(finding: Finding) -> str:
    """``file:line path``, as far as they are known."""
    where = f"line {finding.line}" if finding.line else "the file"
    return f"{where}  {clean(finding.path, 80)}" if finding.path else where


def finding_lines(report: Report, paint: Paint = plain, *, per_rule: int = SHOWN_PER_RULE) -> list[str]:
    """The findings as text, grouped by rule: the first places of each, what to do, and how many there are.

    Args:
        report: The report.
        paint: Colours for a terminal.
        per_rule: Places shown of each rule.
    """
    lines: list[str] = []
    files = {f.file for f in report.findings}
    for group in worst_first(report):
        first = group[0]
        number = report.summary.counts.get(first.code, len(group))
        times = f"  ×{number:,}" if number > 1 else ""
        lines.append(
            f"{paint(first.severity.value, first.severity.value)} {paint('bold', first.code)} {first.name}{times}"
        )
        for finding in group[:per_rule]:
            file = f"{clean(finding.file)} " if len(files) > 1 else ""
            lines.append(f"  {paint('dim', file + place_of(finding))}  {clean(finding.message, 300)}")
            if finding.excerpt:
                lines.append(f"      {paint('code', clean(finding.excerpt, 160))}")
        if number > per_rule:
            lines.append(paint("dim", f"  … and {number - min(per_rule, len(group)):,} more"))
        if first.hint:
            lines.append(f"  {paint('ok', 'help')}  {clean(first.hint, 300)}")
    return lines


def github(report: Report) -> str:
    """Workflow commands for GitHub Actions, at most ten of each level, the worst first."""
    lines = []
    for severity, command in _GITHUB.items():
        wanted = [f for group in worst_first(report) for f in group if f.severity is severity]
        for finding in wanted[:GITHUB_PER_LEVEL]:
            fields = {"title": f"{finding.code} {finding.name}", "file": _file_of(report, finding)}
            if finding.line:
                fields["line"] = str(finding.line)
            head = ",".join(f"{key}={_escape(value, is_property=True)}" for key, value in fields.items())
            text = f"{finding.path}: {finding.message}" if finding.path else finding.message
            lines.append(f"::{command} {head}::{_escape(clean(text, 500))}")
    return "\n".join(lines) + ("\n" if lines else "")


def _file_of(report: Report, finding: Finding) -> str:
    for dataset in (report.dataset, report.validation):
        if dataset is not None and dataset.path.name == finding.file:
            return dataset.path.as_posix()
    return finding.file


def _escape(text: str, *, is_property: bool = False) -> str:
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return escaped.replace(":", "%3A").replace(",", "%2C") if is_property else escaped


def sarif(report: Report) -> str:
    """A SARIF 2.1.0 document, for code scanning."""
    kept = [f for group in worst_first(report) for f in group][:SARIF_MAX]
    rules = {f.code: {"id": f.code, "name": f.name, "help": {"text": f.hint or f.name}} for f in kept}
    run = {
        "tool": {"driver": {"name": "ftpipe", "rules": list(rules.values())}},
        "results": [_sarif_result(report, finding) for finding in kept],
        "properties": {"counts": report.summary.counts, "dataset": report.dataset.sha256},
    }
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _sarif_result(report: Report, finding: Finding) -> dict[str, object]:
    location: dict[str, object] = {"artifactLocation": {"uri": _file_of(report, finding)}}
    if finding.line:
        location["region"] = {"startLine": finding.line}
    text = f"{finding.path}: {finding.message}" if finding.path else finding.message
    result: dict[str, object] = {
        "ruleId": finding.code,
        "level": _SARIF[finding.severity],
        "message": {"text": clean(text, 1000)},
        "locations": [{"physicalLocation": location}],
    }
    if finding.record_sha256:
        result["partialFingerprints"] = {"record/v1": f"{finding.code}:{finding.record_sha256}"}
    return result


def markdown(report: Report) -> str:
    """A Markdown section, for a job summary."""
    lines = [f"### {_cell(report.dataset.path.name)}", "", headline(report), ""]
    if report.findings:
        lines += ["| rule | severity | found | first place | message |", "|---|---|---:|---|---|"]
    for group in worst_first(report):
        first = group[0]
        number = report.summary.counts.get(first.code, len(group))
        cells = (f"{first.code} {first.name}", first.severity.value, f"{number:,}", place_of(first), first.message)
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    if report.tokens:
        tokens = report.tokens
        lines += [
            "",
            f"{report.dataset.examples:,} examples, {tokens.total:,} tokens, {tokens.trained:,} of them trained "
            f"({tokens.encoding}).",
        ]
    if report.cost and report.cost.expected is not None:
        cost = report.cost
        lines += [
            "",
            f"Expected cost {cost.expected:,.2f} {cost.currency} ({cost.low:,.2f} to {cost.high:,.2f}) "
            f"for {cost.epochs} epochs.",
        ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    shown = clean(text, 200)
    for char in "\\`*_{}[]<>|#!":
        shown = shown.replace(char, f"\\{char}")
    return shown


FORMATS: dict[str, Callable[[Report], str]] = {
    "text": lambda report: "\n".join([*finding_lines(report), headline(report)]) + "\n",
    "github": github,
    "sarif": sarif,
    "md": markdown,
}
"""Output format → renderer; ``json`` is the command's own document."""
