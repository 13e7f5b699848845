"""Which processes and threads get the processor first."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import psutil

SWITCH_SECONDS = 0.0005
"""How long a thread keeps Python's interpreter lock while others wait for it; Python's default is ten times that."""


def lower_priority(nice: int, pid: int) -> None:
    """Let other processes come first.

    Linux can put each session into a group, with an equal share of the processor for each group; then the nice value of
    a process counts among those of its session only, and the group has one of its own. Two busy processes in sessions
    of their own, with the nice values 0 and 15, had the same processor time without it (2026-11-29).
    Source: sched(7), "The autogroup feature", https://man7.org, 2026-11-29.

    Args:
        nice: 1 to 19, the lowest priority.
        pid: A process that leads its session: the priority of the group is that of all processes in it.
    """
    with suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        process.nice(max(nice, process.nice()))
    with suppress(OSError):  # not Linux, or without groups
        Path(f"/proc/{pid}/autogroup").write_text(str(nice), encoding="ascii")


def switch_threads_often() -> None:
    """Let threads with a little work, such as one token of an answer, not wait for those with much."""
    sys.setswitchinterval(SWITCH_SECONDS)
