"""What a notebook shows of a record: every field that is filled, long lists cut, foreign text inert."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ftpipe.records import Dataset, Finding, Report, Severity, UploadedFile
from ftpipe.records.html_repr import MAX_ROWS
from ftpipe.stages.count import count
from ftpipe.stages.validate import validate
from tests.dataset.samples import chats, write
from tests.reports.xss_payloads import PAYLOADS


class Tags(HTMLParser):
    """Collects the tags and attributes of a piece of HTML, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One tag begins."""
        self.names |= {tag, *(f"{tag}@{name}" for name, _ in attrs)}

    def handle_data(self, data: str) -> None:
        """Text between tags."""
        self.text.append(data)


def finding(message: str, line: int = 1) -> Finding:
    """A finding that says what it is given."""
    return Finding(
        code="FT204", name=message, severity=Severity.ERROR, line=line, path=message, message=message, hint=message,
        excerpt=message, origin="R", evidence="documented", file=message, record_sha256="", count=1, fix=None,
    )  # fmt: skip


def report_of(tmp_path: Path, *findings: Finding) -> Report:
    """The report of a small file, with these findings in place of its own."""
    path = write(tmp_path / "chat.jsonl", [*chats(12)])
    report = count(validate(path), model="gpt-4.1-mini-2025-04-14", epochs=2)
    return report.model_copy(update={"findings": findings})


def test_html_repr_report_omits_empty_fields(tmp_path: Path) -> None:
    """Tokens with thousands apart, cost, the file's name; no row for a validation file that there is not."""
    shown = Tags(report_of(tmp_path)._repr_html_())
    words = " ".join(shown.text)
    assert words.startswith("Report dataset path ")
    assert "chat.jsonl" in words
    assert "supervised" in words
    assert re.search(r"examples 12 ", words)
    assert "validation_tokens" not in words
    assert shown.names <= {"div", "div@class", "b", "table", "table@style", "tr", "th", "th@style", "td", "td@style"}


def test_html_repr_long_list_is_cut(tmp_path: Path) -> None:
    """Each in a row of its own under the names of the columns, and how many are not shown."""
    page = report_of(tmp_path, *(finding(f"fault {n}", n) for n in range(1, 51)))._repr_html_()
    assert page.count("fault 20<") == page.count("fault 1<") > 0
    assert "fault 21<" not in page
    assert "… and 30 more" in page


def test_html_repr_short_list_is_complete(tmp_path: Path) -> None:
    """Exactly as many as are shown."""
    page = report_of(tmp_path, *(finding(f"fault {n}", n) for n in range(1, MAX_ROWS + 1)))._repr_html_()
    assert f"fault {MAX_ROWS}<" in page
    assert "more" not in page


def test_html_repr_times_and_numbers() -> None:
    """Fields that end in ``_at`` are UTC seconds."""
    file = UploadedFile(
        id="file-1", endpoint="x", sha256="0", bytes=50_600, filename="a.jsonl", created_at=1_795_500_000, reused=True
    )
    page = file._repr_html_()
    assert re.search(r"created_at</th><td[^>]*>2026-11-24 06:00 UTC<", page)
    assert re.search(r"bytes</th><td[^>]*>50,600<", page)
    assert re.search(r"reused</th><td[^>]*>True<", page)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_html_repr_escapes_text(tmp_path: Path, payload: str) -> None:
    """Whatever stands in a message, an excerpt, a path or a file's name."""
    plain = Tags(report_of(tmp_path, finding("x"))._repr_html_()).names
    record = report_of(tmp_path, finding(payload))
    page = record.model_copy(
        update={"dataset": Dataset(**{**record.dataset.model_dump(), "path": Path(payload)}), "model": payload}
    )._repr_html_()
    assert Tags(page).names == plain
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2066\u2028\ud800-\udfff]", page)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_html_repr_runs_no_script(tmp_path: Path) -> None:
    """All payloads in one page, as a notebook would hold them: the title stays, and nothing is fetched or refused."""
    cells = "".join(report_of(tmp_path, finding(payload))._repr_html_() for payload in PAYLOADS)
    page = tmp_path / "notebook.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><title>calm</title><body>{cells}</body>", encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr", "--dump-dom"]
    command = ["chromium", *flags, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "<title>calm</title>" in completed.stdout
    assert "<script" not in completed.stdout
    assert "<iframe" not in completed.stdout
    assert "<img" not in completed.stdout
