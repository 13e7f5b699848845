"""Findings as text, GitHub commands, SARIF and Markdown: complete, and nothing in the data acts."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as Xml

from ftpipe.records import Dataset, DatasetFormat, DatasetHistograms, Finding, Method, Report, Severity, Summary
from ftpipe.reports.ci_formats import FORMATS, SARIF_MAX, ndjson_line
from ftpipe.reports.dataset_html import html
from ftpipe.reports.findings import finding_lines, headline

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
        "OpenAI would reject a.jsonl: 1 error, first at line 1. 1 warning."
    )
    assert headline(a_report()) == "OpenAI would accept a.jsonl."


def test_text_groups_by_rule_errors_first_and_hides_controls() -> None:
    """The rule, the place, the help."""
    lines = finding_lines(a_report(Severity.WARNING, Severity.ERROR))
    assert lines[0] == "error FT201 some-rule"
    assert not any("\x1b" in line or "\n" in line for line in lines)


def test_github_commands_are_one_line_each_and_at_most_ten_of_a_level() -> None:
    """Data cannot start a command of its own."""
    lines = FORMATS["github"]([a_report(*[Severity.ERROR] * 12)]).splitlines()
    assert len(lines) == 10
    assert all(line.startswith("::error title=ftpipe (FT2") and "file=data/a.jsonl,line=" in line for line in lines)


def test_sarif_is_a_document_with_rule_level_and_place() -> None:
    """What code scanning reads."""
    run = json.loads(FORMATS["sarif"]([a_report(Severity.ERROR, Severity.INFO)]))["runs"][0]
    assert [(r["ruleId"], r["level"]) for r in run["results"]] == [("FT200", "error"), ("FT201", "note")]
    assert run["results"][0]["locations"][0]["physicalLocation"]["region"] == {"startLine": 1}


def test_markdown_escapes_the_data() -> None:
    """No cell ends early, no tag stands."""
    text = FORMATS["md"]([a_report(Severity.ERROR)])
    row = next(line for line in text.splitlines() if "FT200" in line)
    assert row.count(" | ") == 4 and "\\<script\\>" in row


def test_the_page_is_self_contained_and_runs_nothing_of_the_data() -> None:
    """One script of our own, allowed by its hash; no link leaves the file."""
    page = html(a_report(Severity.ERROR), DatasetHistograms())
    assert page.count("<script") == 1 and "&lt;script&gt;" in page
    assert "default-src 'none'" in page.replace("&#39;", "'") and "http://" not in page and "https://" not in page
    assert "\x1b" not in page


def test_sarif_keeps_what_github_takes_and_counts_the_rest() -> None:
    """One loud rule leaves room for the others, errors come first, and the numbers stay exact."""
    report = a_report(*[Severity.INFO] * (SARIF_MAX + 500), *[Severity.ERROR] * 3)
    loud = [f.model_copy(update={"code": "FT812"}) for f in report.findings[:1500]]
    report = report.model_copy(update={"findings": (*loud, *report.findings[1500:])})
    run = json.loads(FORMATS["sarif"]([report]))["runs"][0]
    codes = [result["ruleId"] for result in run["results"]]
    assert len(codes) == SARIF_MAX and 990 < codes.count("FT812") <= 1000
    assert [result["level"] for result in run["results"][:4]] == ["error", "error", "error", "note"]
    assert sum(run["properties"]["counts"].values()) == SARIF_MAX + 503


def test_gitlab_issues_have_fingerprints_of_their_own_that_survive_reordering() -> None:
    """What GitLab compares between two branches."""
    report = a_report(Severity.ERROR, Severity.WARNING, Severity.INFO)
    same = [f.model_copy(update={"code": "FT204", "record_sha256": "ab"}) for f in report.findings]
    issues = json.loads(FORMATS["gitlab"]([report.model_copy(update={"findings": tuple(same)})]))
    moved = [f.model_copy(update={"line": 90}) for f in same]
    again = json.loads(FORMATS["gitlab"]([report.model_copy(update={"findings": tuple(moved)})]))
    assert [issue["severity"] for issue in issues] == ["critical", "minor", "info"]
    assert issues[1]["location"] == {"path": "data/a.jsonl", "lines": {"begin": 2}}
    assert len({issue["fingerprint"] for issue in issues}) == 3
    assert [issue["fingerprint"] for issue in issues] == [issue["fingerprint"] for issue in again]


def test_junit_fails_for_errors_alone_and_one_case_stands_for_one_rule() -> None:
    """Every file is a suite; what the data says is text and no markup."""
    good, bad = a_report(Severity.WARNING), a_report(Severity.ERROR, Severity.ERROR, Severity.INFO)
    suites = list(Xml.fromstring(FORMATS["junit"]([good, bad])))
    assert [suite.get("failures") for suite in suites] == ["0", "3"]
    assert [suite.get("skipped") for suite in suites] == ["1", "1"]
    assert [case.get("name") for case in suites[1]][:2] == ["verdict", "FT200 some-rule (error)"]
    assert "<script>" in (suites[1][1][0].text or "") and len(suites[1][1][0]) == 0


def test_all_files_of_a_call_share_githubs_ten_annotations() -> None:
    """Ten of a level, whatever the number of files, and the path is that of each file."""
    bad, dubious = a_report(*[Severity.ERROR] * 7), a_report(*[Severity.WARNING] * 3)
    text = FORMATS["github"]([bad, dubious, bad])
    assert [text.count(word) for word in ("::error title=", "::warning title=")] == [10, 3]


def test_a_finding_is_one_line_of_ascii_json() -> None:
    """Whatever it quotes."""
    (finding,) = a_report(Severity.ERROR).findings
    line = ndjson_line(finding.model_copy(update={"path": 'messages["\u2028\ud800"]'}))
    assert line.isascii() and len(line.splitlines()) == 1
    assert json.loads(line)["message"] == NASTY
