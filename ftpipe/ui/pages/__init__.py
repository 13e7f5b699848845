"""The pages, one module each, in the order of the navigation."""

from __future__ import annotations

from ftpipe.ui.pages import answers, data, evaluations, models, runs, start
from ftpipe.ui.rendering import Page

PAGES: tuple[Page, ...] = (runs.PAGE, data.PAGE, start.PAGE, models.PAGE, answers.PAGE, evaluations.PAGE)
"""Each is complete; one that is not stands in no list."""
