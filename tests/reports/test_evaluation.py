"""Evaluation reports show the results, and no data is active in any of them."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from ftpipe.records import TrainingMetrics
from ftpipe.records.evaluation import Evaluation
from ftpipe.reports.evaluation import FORMATS, charts
from ftpipe.reports.evaluation.csv import escape_csv_cell, to_csv
from ftpipe.reports.evaluation.html import PageContext, to_html
from ftpipe.reports.evaluation.junit import to_junit
from ftpipe.reports.evaluation.markdown import to_markdown
from ftpipe.reports.evaluation.promptfoo import to_promptfoo
from ftpipe.reports.evaluation.terminal import evaluation_lines
from tests.evaluation.test_evaluate import run
from tests.reports.xss_payloads import PAYLOADS, hostile

ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "p", "h1", "h2", "h3", "h4", "section", "div", "span", "table",
    "tr", "th", "td", "svg", "line", "text", "polyline", "fieldset", "legend", "label", "input", "article", "header",
    "details", "summary", "pre", "code", "strong", "wbr",
}  # fmt: skip
WITH_EVERYTHING = run(gates=("normalized>=+0.03@95%", "exact>=0.95"), max_regressions=5)


class Tags(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record a tag."""
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_evaluation_html_escapes_data(payload: str) -> None:
    """Only the template's tags, and no handler, link, style attribute or script."""
    tags = Tags()
    tags.feed(to_html(*hostile(payload)))
    assert {tag for tag, _ in tags.tags} <= ALLOWED
    names = {name for _, attributes in tags.tags for name in attributes}
    assert not names & {"href", "src", "style", "srcdoc", "action", "formaction"}
    assert not [name for name in names if name.startswith("on")]
    classes = {word for _, attributes in tags.tags for word in (attributes.get("class") or "").split()}
    assert all(re.fullmatch(r"(for-)?[a-z]+(-\d+)?", word) for word in classes)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_evaluation_html_policy_allows_only_its_style(payload: str) -> None:
    """The hash is that of the only style element, and no script is allowed."""
    import base64
    import hashlib

    html = to_html(*hostile(payload))
    [style] = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in html
    assert html.index("Content-Security-Policy") < html.index("<style>")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_evaluation_html_is_inert_in_a_browser(tmp_path: Path) -> None:
    """All payloads in headless Chromium: the title stays, and the policy reports no violation."""
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--enable-logging=stderr",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--v=0", "--dump-dom",
    ]  # fmt: skip
    for number, payload in enumerate(PAYLOADS):
        path = tmp_path / f"{number}.html"
        path.write_text(to_html(*hostile(payload)), encoding="utf-8")
        command = ["chromium", *flags, f"--user-data-dir={tmp_path / f'profile-{number}'}", path.as_uri()]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        [title] = re.findall(r"<title>(.*?)</title>", result.stdout, re.DOTALL)
        assert title.startswith("Not enough evidence"), payload
        assert "Content Security Policy" not in result.stderr
        assert "Content-Security-Policy" not in re.sub(r"<meta[^>]*>", "", result.stderr)


def test_evaluation_html_shows_results() -> None:
    """Verdict, scores with intervals, gates, and samples with their change."""
    html = to_html(WITH_EVERYTHING)
    assert "▲ tuned is better than base" in html
    assert "exact McNemar p &lt; 0.0001" in html
    assert html.count("▼ regressed") == 2
    assert html.count("▲ improved") == 36
    assert "✗ no" in html
    assert "0.900" in html


def test_evaluation_reports_name_the_concurrency() -> None:
    """An endpoint that answers one by one makes the others wait, which is not a property of the model."""
    for shown in (to_html(WITH_EVERYTHING), to_markdown(WITH_EVERYTHING), "\n".join(evaluation_lines(WITH_EVERYTHING))):
        assert "with up to 4 concurrent requests, including the time they wait for each other" in shown
    alone = WITH_EVERYTHING.model_copy(update={"concurrency": 1})
    assert "one request at a time" in to_html(alone)
    assert "p50 and p95:" not in to_html(WITH_EVERYTHING.model_copy(update={"concurrency": None}))


def test_evaluation_html_shows_lineage_and_curves() -> None:
    """From the registry's model and the job's metrics."""
    curve = [TrainingMetrics(step=step, train_loss=2 / step, valid_loss=3 / step) for step in range(1, 6)]
    _, background = hostile("x")
    html = to_html(WITH_EVERYTHING, PageContext(models={"tuned": background.models["x b"]}, curves={"tuned": curve}))
    assert html.count("<polyline") == 2
    assert "Lineage" in html


def test_evaluation_html_keeps_regressions_if_truncated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regressions come first; unchanged items are left out and counted."""
    monkeypatch.setattr("ftpipe.reports.evaluation.html.MAX_SAMPLES", 10)
    html = to_html(WITH_EVERYTHING)
    assert html.count("▼ regressed") == 2
    assert html.count("<article") == 10
    assert "50 unchanged items" in html


def test_loss_chart_splits_at_missing_values() -> None:
    """It needs at least two points."""
    values = [1.0, 0.9, float("nan"), 0.7, 0.6]
    chart = charts.loss_chart([TrainingMetrics(step=step, train_loss=value) for step, value in enumerate(values)])
    assert chart is not None
    assert len(chart.curves[0].parts) == 2
    assert charts.loss_chart([TrainingMetrics(step=1, train_loss=1.0)]) is None
    assert charts.loss_chart([]) is None


@pytest.mark.parametrize("payload", PAYLOADS)
def test_junit_and_markdown_escape_data(payload: str) -> None:
    """The XML is valid; Markdown has no tag, link, image, mention or cell from the data."""
    evaluation, _ = hostile(payload)
    assert Xml.fromstring(to_junit(evaluation)).tag == "testsuites"
    text = to_markdown(evaluation)
    assert not re.search(r"(?<!\\)\]\(|(?<!\\)!\[|<[a-z/!]|@\w|https?:|javascript:|www\.", text)
    widths = {line.count(" | ") for line in text.splitlines() if line.startswith("| ")}
    assert len(widths) <= 5


def test_junit_counts_gates_verdicts_and_regressions() -> None:
    """One gate fails; two items regressed and are shown as skipped."""
    suite = Xml.fromstring(to_junit(WITH_EVERYTHING))[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("6", "1", "2")


def test_markdown_starts_with_the_verdict() -> None:
    text = to_markdown(WITH_EVERYTHING)
    assert text.startswith("## ▲ tuned is better than base")
    assert "36 items improved, 2 regressed" in text


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\0=1", " =1", "\n=1"])
def test_csv_cells_escape_formulas(text: str) -> None:
    assert escape_csv_cell(text).startswith("'")
    assert escape_csv_cell("plain") == "plain"


@pytest.mark.parametrize("payload", PAYLOADS)
def test_csv_has_a_row_per_item_arm_and_sample(payload: str) -> None:
    evaluation, _ = hostile(payload)
    rows = list(csv.reader(io.StringIO(to_csv(evaluation), newline="")))
    assert len(rows) == 1 + 2 * 3 * 2
    assert {len(row) for row in rows} == {11}


@pytest.mark.parametrize("payload", PAYLOADS)
def test_promptfoo_escapes_templates_in_data(payload: str) -> None:
    """No variable contains a template delimiter, and the texts are complete."""
    evaluation, _ = hostile(payload)
    document = json.loads(to_promptfoo(evaluation))
    test = document["tests"][0]
    for value in test["vars"].values():
        assert not re.search(r"\{\{|\{%|\{#|#\}", value)
    assert json.loads(test["vars"]["expected"]) == payload
    assert json.loads(test["vars"]["messages_1"])[0]["content"] == payload
    assert [provider["prompts"] for provider in document["providers"]] == [["arm-0"], ["arm-1"], ["arm-2"]]
    assert not re.search(r"\{\{|\{%|\{#|#\}", json.dumps(document["providers"]) + document["description"])


@pytest.mark.parametrize("name", FORMATS)
def test_evaluation_formats_encode_as_utf8(name: str) -> None:
    """Also with lone surrogates in the data."""
    evaluation: Evaluation = hostile("\ud800 x")[0]
    assert FORMATS[name](evaluation).encode("utf-8")
    assert FORMATS[name](WITH_EVERYTHING).endswith("\n")


def test_terminal_scores_of_many_metrics_fit_the_terminal() -> None:
    """Then each metric has a row, and each model a column."""
    wide = run(metrics=("exact", "normalized", "rouge_l", "edit"))
    header, *rows = [line for line in evaluation_lines(wide)][:5]
    assert header.split() == ["base", "tuned"]
    assert [row.split("  ")[0] for row in rows] == ["exact match", "normalized match", "ROUGE-L", "edit similarity"]
    assert max(map(len, [header, *rows])) <= 80
    narrow = run(metrics=("exact",))
    assert next(iter(evaluation_lines(narrow))).split() == ["exact", "match", "macro-F1"]
