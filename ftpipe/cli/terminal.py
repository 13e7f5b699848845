"""The one rich console: stderr, without markup, emoji codes or highlighting, so that data stays data."""

from __future__ import annotations

import sys
from functools import cache

from rich.console import Console

from ftpipe.cli.session import CliContext


def console(session: CliContext) -> Console:
    """The console for progress."""
    return _console(session.has_color(sys.stderr))


@cache
def _console(has_color: bool) -> Console:
    return Console(stderr=True, markup=False, emoji=False, highlight=False, no_color=not has_color)
