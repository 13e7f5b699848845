"""Progress on stderr: a bar on a terminal, a line now and then in a log, nothing under ``--quiet``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ftpipe.cli.context import CliContext
from ftpipe.formatting import format_bytes, plural

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[int, int], None]
"""``progress(done, total)``, in bytes or items."""
LINE_SECONDS = 10.0
"""Minimum time between two lines about the same work in a log, unless much of it was done."""
MIN_LINE_FRACTION = 0.1
"""A log gets a line earlier if this much of the work was done since the last one."""
MIN_BYTES = 4_000_000
"""Smaller files are read faster than a bar is drawn, so they get no progress."""


def console(context: CliContext) -> Console:
    """Return rich's console for stderr."""
    return _console(context.has_color(sys.stderr))


@cache
def _console(has_color: bool) -> Console:
    from rich.console import Console

    return Console(stderr=True, markup=False, emoji=False, highlight=False, no_color=not has_color)


class LineThrottle:
    """Decides when a log gets its next line about a piece of work.

    Args:
        clock: Monotonic seconds.
        started_at: When the last line was written; ``None`` is now.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, started_at: float | None = None) -> None:
        self._clock = clock
        self._last_time = clock() if started_at is None else started_at
        self._last_fraction = 0.0

    def is_due(self, fraction: float = 0.0) -> bool:
        """Whether to write a line now, when this fraction of the work is done; true starts the next interval."""
        now = self._clock()
        if fraction - self._last_fraction < MIN_LINE_FRACTION and now - self._last_time < LINE_SECONDS:
            return False
        self._last_time, self._last_fraction = now, fraction
        return True


class LineProgress:
    """Progress for a log: a line every 10 seconds or every 10 %.

    Args:
        write: Writes a line.
        label: Name of the work.
        unit: Noun of the items; bytes if it is empty.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        label: str,
        *,
        unit: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._label = label
        self._unit = unit
        self._throttle = LineThrottle(clock)

    def __call__(self, done: int, total: int) -> None:
        """Write a line if one is due."""
        fraction = done / total if total else 1.0
        if not self._throttle.is_due(fraction):
            return
        if self._unit:
            self._write(f"{self._label}: {done:,} of {plural(total, self._unit)}")
        else:
            self._write(f"{self._label}: {fraction:.0%} of {format_bytes(total)}")


@contextmanager
def spinner(context: CliContext, label: str) -> Iterator[None]:
    """Show that something is awaited, with the seconds that have passed; only on a terminal."""
    if context.quiet or not sys.stderr.isatty():
        yield
        return
    from rich import progress as rich

    columns = (rich.SpinnerColumn(), rich.TextColumn("{task.description}"), rich.TimeElapsedColumn())
    with rich.Progress(*columns, console=console(context), transient=True) as display:
        display.add_task(label, total=None)
        yield


@contextmanager
def file_progress(context: CliContext, label: str, path: Path) -> Iterator[Progress]:
    """Show progress over the bytes of a file; nothing for a small one."""
    if path.stat().st_size < MIN_BYTES:
        yield lambda _done, _total: None
        return
    with item_progress(context, label, unit="") as progress:
        yield progress


@contextmanager
def item_progress(context: CliContext, label: str, unit: str) -> Iterator[Progress]:
    """Show progress over items whose noun is ``unit``; over bytes if it is empty."""
    if context.quiet:
        yield lambda _done, _total: None
    elif not sys.stderr.isatty():
        yield LineProgress(context.print_status, label, unit=unit)
    else:
        from rich import progress as rich

        amount = (rich.MofNCompleteColumn(),) if unit else (rich.DownloadColumn(), rich.TransferSpeedColumn())
        columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), *amount, rich.TimeRemainingColumn())
        with rich.Progress(*columns, console=console(context), transient=True) as bars:
            task = bars.add_task(label, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)
