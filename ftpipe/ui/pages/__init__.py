"""The pages, one module each, in the order of the navigation."""

from __future__ import annotations

from ftpipe.ui.pages import evaluations, models, runs
from ftpipe.ui.rendering import Page

PAGES: tuple[Page, ...] = (runs.PAGE, models.PAGE, evaluations.PAGE)
"""Each is complete; one that is not stands in no list."""
