"""Findings as text, GitHub commands, SARIF and Markdown: complete, and nothing in the data acts."""

from __future__ import annotations

import json
from pathlib import Path

from ftpipe.records import Dataset, DatasetFormat, DatasetPicture, Finding, Method, Report, Severity, Summary
from ftpipe.reports.findings import FORMATS, finding_lines, headline
from ftpipe.reports.html import html

NASTY = "\x1b]0;title\x07<script>alert(1)</script> 100%\n::error::x | `y`"


def a_report(*severities: Severity) -> Report:
    """A report whose findings all quote hostile data."""
    findings = tuple(
        Finding(
            code=f"FT{200 + n}",
            name="some-rule",
            severity=s,
            line=n + 1,
            message=NASTY,
            hint="Mend it.",
            file="a.jsonl",
            excerpt=NASTY,
        )
        for n, s in enumerate(severities)
    )
    summary = Summary(
        errors=severities.count(Severity.ERROR),
        warnings=severities.count(Severity.WARNING),
        counts={f.code: 1 for f in findings},
    )
    dataset = Dataset(path=Path("data/a.jsonl"), sha256="0" * 64, bytes=10, examples=3, format=DatasetFormat.CHAT)
    return Report(dataset=dataset, target="openai", method=Method.SUPERVISED, findings=findings, summary=summary)


def test_the_headline_says_whether_the_target_would_take_the_file() -> None:
    """Errors first, with the first line."""
    assert headline(a_report(Severity.ERROR, Severity.WARNING)) == (
        "openai would not take a.jsonl: 1 error, first at line 1. 1 warning."
    )
    assert headline(a_report()) == "openai would take a.jsonl."


def test_text_groups_by_rule_errors_first_and_hides_controls() -> None:
    """The rule, the place, the help."""
    lines = finding_lines(a_report(Severity.WARNING, Severity.ERROR))
    assert lines[0] == "error FT201 some-rule"
    assert not any("\x1b" in line or "\n" in line for line in lines)


def test_github_commands_are_one_line_each_and_at_most_ten_of_a_level() -> None:
    """Data cannot start a command of its own."""
    lines = FORMATS["github"](a_report(*[Severity.ERROR] * 12)).splitlines()
    assert len(lines) == 10
    assert all(line.startswith("::error title=FT2") and "file=data/a.jsonl,line=" in line for line in lines)


def test_sarif_is_a_document_with_rule_level_and_place() -> None:
    """What code scanning reads."""
    run = json.loads(FORMATS["sarif"](a_report(Severity.ERROR, Severity.INFO)))["runs"][0]
    assert [(r["ruleId"], r["level"]) for r in run["results"]] == [("FT200", "error"), ("FT201", "note")]
    assert run["results"][0]["locations"][0]["physicalLocation"]["region"] == {"startLine": 1}


def test_markdown_escapes_the_data() -> None:
    """No cell ends early, no tag stands."""
    text = FORMATS["md"](a_report(Severity.ERROR))
    row = next(line for line in text.splitlines() if "FT200" in line)
    assert row.count(" | ") == 4 and "\\<script\\>" in row


def test_the_page_is_self_contained_and_runs_nothing_of_the_data() -> None:
    """One script of our own, allowed by its hash; no link leaves the file."""
    page = html(a_report(Severity.ERROR), DatasetPicture())
    assert page.count("<script") == 1 and "&lt;script&gt;" in page
    assert "default-src 'none'" in page.replace("&#39;", "'") and "http://" not in page and "https://" not in page
    assert "\x1b" not in page
