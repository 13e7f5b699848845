"""Reports of findings: complete, and data in them stays inert."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as Xml

from ftpipe.records import Dataset, DatasetFormat, Finding, Method, Report, Severity, Summary
from ftpipe.reports.ci_formats import FORMATS, MAX_SARIF_RESULTS, ndjson_line
from ftpipe.reports.dataset_html import html
from ftpipe.reports.findings import finding_lines, headline

HOSTILE_TEXT = "\x1b]0;title\x07<script>alert(1)</script> 100%\n::error::x | `y`"


def hostile_report(*severities: Severity) -> Report:
    """A report whose findings quote hostile data."""
    findings = tuple(
        Finding(
            code=f"FT{200 + n}",
            name="some-rule",
            severity=s,
            line=n + 1,
            message=HOSTILE_TEXT,
            hint="Fix it.",
            file="a.jsonl",
            excerpt=HOSTILE_TEXT,
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


def test_headline_states_verdict_and_first_error() -> None:
    assert headline(hostile_report(Severity.ERROR, Severity.WARNING)) == (
        "OpenAI would reject a.jsonl: 1 error, first at line 1. 1 warning."
    )
    assert headline(hostile_report()) == "OpenAI would accept a.jsonl."


def test_headline_of_quality_errors_alone_does_not_claim_a_rejection() -> None:
    """The target accepts such a file; training on it would be useless."""
    report = hostile_report(Severity.ERROR, Severity.WARNING)
    findings = tuple(f.model_copy(update={"origin": "Q" if f.severity == "error" else "R"}) for f in report.findings)
    shown = headline(report.model_copy(update={"findings": findings}))
    assert shown == "a.jsonl has 1 error, first at line 1. 1 warning."


def test_finding_lines_sort_errors_first_and_hide_controls() -> None:
    lines = finding_lines(hostile_report(Severity.WARNING, Severity.ERROR))
    assert lines[0] == "error FT201 some-rule"
    assert not any("\x1b" in line or "\n" in line for line in lines)


def test_findings_with_different_hints_share_no_help() -> None:
    """The help for `User` says nothing about `asistant`; findings with the same hint have it once."""
    report = hostile_report(*[Severity.ERROR] * 3)
    hints = ("Did you mean 'user'?", "Did you mean 'assistant'?", "Did you mean 'user'?")
    changes = [{"code": "FT205", "message": f"Role {n}.", "hint": hint, "excerpt": ""} for n, hint in enumerate(hints)]
    findings = tuple(f.model_copy(update=change) for f, change in zip(report.findings, changes, strict=True))
    report = report.model_copy(update={"findings": findings})
    assert [line.strip() for line in finding_lines(report)[1:]] == [
        "line 1  Role 0.",
        "line 3  Role 2.",
        "help  Did you mean 'user'?",
        "line 2  Role 1.",
        "help  Did you mean 'assistant'?",
    ]
    page = html(report)
    assert (
        page.index("Role 2") < page.index("mean &#39;user") < page.index("Role 1") < page.index("mean &#39;assistant")
    )
    case = next(
        case for case in Xml.fromstring(FORMATS["junit"]([report])).iter("testcase") if "FT205" in str(case.attrib)
    )
    assert case[0].get("message") == "3 × some-rule" and "Role 1. Did you mean 'assistant'?" in str(case[0].text)
    rules = json.loads(FORMATS["sarif"]([report]))["runs"][0]["tool"]["driver"]["rules"]
    assert rules[0]["help"]["text"] == "some-rule"


def test_github_commands_are_single_lines_and_at_most_ten() -> None:
    """Data cannot start a workflow command."""
    lines = FORMATS["github"]([hostile_report(*[Severity.ERROR] * 12)]).splitlines()
    assert len(lines) == 10
    assert all(line.startswith("::error title=ftpipe (FT2") and "file=data/a.jsonl,line=" in line for line in lines)


def test_sarif_result_has_rule_level_and_line() -> None:
    run = json.loads(FORMATS["sarif"]([hostile_report(Severity.ERROR, Severity.INFO)]))["runs"][0]
    assert [(r["ruleId"], r["level"]) for r in run["results"]] == [("FT200", "error"), ("FT201", "note")]
    assert run["results"][0]["locations"][0]["physicalLocation"]["region"] == {"startLine": 1}


def test_markdown_escapes_data() -> None:
    """No cell ends early, and no tag remains."""
    text = FORMATS["md"]([hostile_report(Severity.ERROR)])
    row = next(line for line in text.splitlines() if "FT200" in line)
    assert row.count(" | ") == 4 and "&lt;script&gt;" in row and "<" not in row


def test_html_is_self_contained_and_runs_no_data() -> None:
    """The only script is allowed by its hash, and no link leaves the file."""
    page = html(hostile_report(Severity.ERROR))
    assert page.count("<script") == 1 and "&lt;script&gt;" in page
    assert "default-src 'none'" in page.replace("&#39;", "'") and "http://" not in page and "https://" not in page
    assert "\x1b" not in page


def test_sarif_limits_results_and_keeps_exact_counts() -> None:
    """One frequent rule leaves room for others, errors come first, and the counts stay exact."""
    report = hostile_report(*[Severity.INFO] * (MAX_SARIF_RESULTS + 500), *[Severity.ERROR] * 3)
    frequent = [f.model_copy(update={"code": "FT812"}) for f in report.findings[:1500]]
    report = report.model_copy(update={"findings": (*frequent, *report.findings[1500:])})
    run = json.loads(FORMATS["sarif"]([report]))["runs"][0]
    codes = [result["ruleId"] for result in run["results"]]
    assert len(codes) == MAX_SARIF_RESULTS and 990 < codes.count("FT812") <= 1000
    assert [result["level"] for result in run["results"][:4]] == ["error", "error", "error", "note"]
    assert sum(run["properties"]["counts"].values()) == MAX_SARIF_RESULTS + 503


def test_gitlab_fingerprints_are_unique_and_survive_reordering() -> None:
    """GitLab compares them between two branches."""
    report = hostile_report(Severity.ERROR, Severity.WARNING, Severity.INFO)
    same = [f.model_copy(update={"code": "FT204", "record_sha256": "ab"}) for f in report.findings]
    issues = json.loads(FORMATS["gitlab"]([report.model_copy(update={"findings": tuple(same)})]))
    moved = [f.model_copy(update={"line": 90}) for f in same]
    again = json.loads(FORMATS["gitlab"]([report.model_copy(update={"findings": tuple(moved)})]))
    assert [issue["severity"] for issue in issues] == ["critical", "minor", "info"]
    assert issues[1]["location"] == {"path": "data/a.jsonl", "lines": {"begin": 2}}
    assert len({issue["fingerprint"] for issue in issues}) == 3
    assert [issue["fingerprint"] for issue in issues] == [issue["fingerprint"] for issue in again]


def test_junit_fails_only_errors_with_one_case_per_rule() -> None:
    """Every file is a suite, and data stays text."""
    good, bad = hostile_report(Severity.WARNING), hostile_report(Severity.ERROR, Severity.ERROR, Severity.INFO)
    suites = list(Xml.fromstring(FORMATS["junit"]([good, bad])))
    assert [suite.get("failures") for suite in suites] == ["0", "3"]
    assert [suite.get("skipped") for suite in suites] == ["1", "1"]
    assert [case.get("name") for case in suites[1]][:2] == ["verdict", "FT200 some-rule (error)"]
    assert "<script>" in (suites[1][1][0].text or "") and len(suites[1][1][0]) == 0


def test_github_annotation_limit_is_shared_by_all_files() -> None:
    bad, suspect = hostile_report(*[Severity.ERROR] * 7), hostile_report(*[Severity.WARNING] * 3)
    text = FORMATS["github"]([bad, suspect, bad])
    assert [text.count(word) for word in ("::error title=", "::warning title=")] == [10, 3]


def test_ndjson_line_is_one_line_of_ascii_json() -> None:
    (finding,) = hostile_report(Severity.ERROR).findings
    line = ndjson_line(finding.model_copy(update={"path": 'messages["\u2028\ud800"]'}))
    assert line.isascii() and len(line.splitlines()) == 1
    assert json.loads(line)["message"] == HOSTILE_TEXT
