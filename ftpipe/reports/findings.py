"""The findings of a report as text and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from ftpipe.formatting import Styler, sanitize_line, unstyled
from ftpipe.records import Finding, Report, Severity
from ftpipe.reports.markdown_text import escape_markdown, markdown_table

MAX_SHOWN_PER_RULE = 3
TARGETS = {
    "openai": "OpenAI",
    "azure": "Azure OpenAI",
    "nebius": "Nebius",
    "local": "The embedded server",
    "together": "Together",
    "fireworks": "Fireworks",
    "bedrock": "Amazon Bedrock",
}
REJECTION_ORIGINS = frozenset("RD")
"""Origins of the rules about data that the target rejects or does not document."""
_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}


def sort_by_severity(report: Report) -> list[list[Finding]]:
    """The findings grouped by rule: errors first, and by line within a rule."""
    ordered = sorted(report.findings, key=lambda f: (_ORDER[f.severity], f.code, f.file, f.line or 0))
    return [list(group) for _, group in groupby(ordered, key=lambda f: (f.severity, f.code))]


def group_by_hint(findings: Iterable[Finding]) -> list[list[Finding]]:
    """The findings of a rule grouped by their hint, in the order in which the hints occur first."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.hint, []).append(finding)
    return list(groups.values())


def common_hint(findings: Iterable[Finding]) -> str:
    """The hint that all of the findings have; empty if they differ."""
    hints = {finding.hint for finding in findings}
    return hints.pop() if len(hints) == 1 else ""


def headline(report: Report) -> str:
    """One sentence: whether the target would accept the file, and where the first error is.

    It says that the target would reject the file only if an error is about what the target or its documentation
    allows; other errors make training useless.
    """
    target = TARGETS.get(report.target, sanitize_line(report.target, 40))
    name, summary = sanitize_line(report.dataset.path.name), report.summary
    rest = ", ".join(
        f"{number:,} {word}{'s' if number != 1 else ''}"
        for number, word in ((summary.warnings, "warning"), (summary.infos, "note"))
        if number
    )
    after = f" {rest}." if rest else ""
    if not summary.errors:
        return f"{target} would accept {name}.{after}"
    first = next((f for f in report.findings if f.severity is Severity.ERROR and f.line), None)
    first_line = f", first at line {first.line}" if first else ""
    count = f"{summary.errors:,} error{'s' if summary.errors != 1 else ''}"
    if any(f.severity is Severity.ERROR and f.origin in REJECTION_ORIGINS for f in report.findings):
        return f"{target} would reject {name}: {count}{first_line}.{after}"
    return f"{name} has {count}{first_line}.{after}"


def format_location(finding: Finding) -> str:
    """``line 4  messages[1].role``, or ``the file`` if the finding has no line."""
    location = f"line {finding.line}" if finding.line else "the file"
    return f"{location}  {sanitize_line(finding.path, 80)}" if finding.path else location


def finding_lines(report: Report, style: Styler = unstyled, *, per_rule: int = MAX_SHOWN_PER_RULE) -> list[str]:
    """The findings as text, grouped by rule: the first ones of each rule, their number, and how to fix them.

    Args:
        report: The report.
        style: Colors for a terminal.
        per_rule: Findings shown for each rule.
    """
    lines: list[str] = []
    files = {f.file for f in report.findings}
    for group in sort_by_severity(report):
        first = group[0]
        number = report.summary.counts.get(first.code, len(group))
        times = f"  ×{number:,}" if number > 1 else ""
        lines.append(
            f"{style(first.severity.value, first.severity.value)} {style('bold', first.code)} {first.name}{times}"
        )
        *others, last = group_by_hint(group[:per_rule])
        for same_hint in others:
            lines += [*_location_lines(same_hint, style, names_file=len(files) > 1), *_help_lines(same_hint, style)]
        lines += _location_lines(last, style, names_file=len(files) > 1)
        if number > per_rule:
            lines.append(style("dim", f"  … and {number - min(per_rule, len(group)):,} more"))
        lines += _help_lines(last, style)
    return lines


def _location_lines(findings: list[Finding], style: Styler, *, names_file: bool) -> Iterator[str]:
    for finding in findings:
        file = f"{sanitize_line(finding.file)} " if names_file else ""
        yield f"  {style('dim', file + format_location(finding))}  {sanitize_line(finding.message, 300)}"
        if finding.excerpt:
            yield f"      {style('code', sanitize_line(finding.excerpt, 160))}"


def _help_lines(findings: list[Finding], style: Styler) -> list[str]:
    hint = findings[0].hint
    return [f"  {style('ok', 'help')}  {sanitize_line(hint, 300)}"] if hint else []


def markdown(report: Report) -> str:
    """A Markdown section, for a job summary."""
    lines = [f"### {escape_markdown(report.dataset.path.name, 200)}", "", headline(report), ""]
    rows: list[list[str]] = []
    for group in sort_by_severity(report):
        first = group[0]
        number = report.summary.counts.get(first.code, len(group))
        cells = (
            f"{first.code} {first.name}",
            first.severity.value,
            f"{number:,}",
            format_location(first),
            first.message,
        )
        rows.append([escape_markdown(cell, 200) for cell in cells])
    if rows:
        lines += markdown_table(["rule", "severity", "count", "first location", "message"], rows)
    if report.tokens:
        tokens = report.tokens
        lines += [
            f"{report.dataset.examples:,} examples, {tokens.at_least}{tokens.total:,} tokens, {tokens.trained:,} of "
            f"them trained ({tokens.encoding}).",
            "",
        ]
        lines += [] if tokens.exact else [f"Not exact: {escape_markdown(tokens.note, 300)}", ""]
    if report.cost and report.cost.expected is not None:
        cost = report.cost
        lines += [
            f"Expected cost {cost.at_least}{cost.expected:,.2f} {cost.currency} ({cost.low:,.2f} to {cost.high:,.2f}) "
            f"for {cost.epochs} epochs.",
        ]
    return "\n".join(lines).rstrip("\n") + "\n"
