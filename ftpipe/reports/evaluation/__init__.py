"""Evaluation reports: HTML, Markdown, JUnit, Promptfoo, CSV and text. A new format is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from ftpipe.records.evaluation import Evaluation
from ftpipe.reports.evaluation.csv import to_csv
from ftpipe.reports.evaluation.junit import to_junit
from ftpipe.reports.evaluation.markdown import to_markdown
from ftpipe.reports.evaluation.promptfoo import to_promptfoo

FORMATS: dict[str, Callable[[Evaluation], str]] = {
    "junit": to_junit,
    "markdown": to_markdown,
    "promptfoo": to_promptfoo,
    "csv": to_csv,
}
"""Name → function that returns the report as text. HTML needs more input, see ``html.to_html``."""
