"""An evaluation as a page, a pull-request comment, JUnit, Promptfoo and a sheet; a new format is a file and a line."""

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
"""Name → an evaluation as text in that format; the HTML page takes more and is in ``page``."""
