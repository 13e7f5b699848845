"""Progress of one long piece of work: a bar on a terminal, a line now and then elsewhere, silence for short work."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from rich.console import Console

from ftpipe.cli.context import CliContext
from ftpipe.formatting import format_bytes
from ftpipe.records import Finding


def console(context: CliContext) -> Console:
    """The console for progress."""
    return _console(context.has_color(sys.stderr))


@cache
def _console(has_color: bool) -> Console:
    return Console(stderr=True, markup=False, emoji=False, highlight=False, no_color=not has_color)


Progress = Callable[[int, int], None]
"""``progress(done, total)``, in bytes."""
_QUIET_BELOW = 4_000_000
"""Files smaller than this, in bytes, are read before a bar could be drawn."""


class LineProgress:
    """Progress for a log: a line every 10 seconds or 10 %, whichever is later to come.

    Args:
        say: Takes a line.
        label: What is being done.
        clock: Monotonic seconds.
    """

    def __init__(self, say: Callable[[str], None], label: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._label = label
        self._clock = clock
        self._last_time = clock()
        self._last_share = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Say how far it has come, if that is worth a line by now."""
        share = done / total if total else 1.0
        now = self._clock()
        if share - self._last_share < 0.1 and now - self._last_time < 10:
            return
        self._last_time, self._last_share = now, share
        self._say(f"{self._label}: {share:.0%} of {format_bytes(total)}")


@contextmanager
def file_progress(context: CliContext, label: str, path: Path) -> Iterator[Progress]:
    """Progress over the bytes of a file."""
    with byte_progress(context, label, path.stat().st_size) as progress:
        yield progress


def first_finding_printer(context: CliContext, path: Path) -> Callable[[Finding], None] | None:
    """Says the first finding of a file that takes a while to read; ``None`` for others."""
    if context.quiet or path.stat().st_size < _QUIET_BELOW:
        return None
    return lambda found: context.print_status(
        f"first finding  {found.code} {found.name}, line {found.line}: {found.message}"
    )


@contextmanager
def byte_progress(context: CliContext, label: str, total: int) -> Iterator[Progress]:
    """Progress over ``total`` bytes."""
    if context.quiet or total < _QUIET_BELOW:
        yield lambda _done, _total: None
    elif not sys.stderr.isatty():
        yield LineProgress(context.print_status, label)
    else:
        yield from _bar(context, label, total)


def _bar(context: CliContext, label: str, total: int) -> Iterator[Progress]:
    from rich import progress as parts

    pass

    columns = (parts.TextColumn("{task.description}"), parts.BarColumn(), parts.DownloadColumn())
    rates = (parts.TransferSpeedColumn(), parts.TimeRemainingColumn())
    with parts.Progress(*columns, *rates, console=console(context), transient=True) as bars:
        task = bars.add_task(label, total=total)
        yield lambda done, whole: bars.update(task, completed=done, total=whole)
