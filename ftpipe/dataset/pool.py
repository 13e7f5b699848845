"""Scans a large file in several processes: workers take byte ranges, and the parts are put together in order."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ftpipe.dataset.lines import Block, read_blocks
from ftpipe.dataset.part import Part, ScanPlan
from ftpipe.dataset.scan import Scanner
from ftpipe.errors import StateError

RANGE_BYTES = 4 * 1024 * 1024
WORTH_BYTES = 12 * 1024 * 1024
"""Below this size one process is sooner done than two have started."""
MAX_PROCESSES = 8


def processes_for(plan: ScanPlan) -> int:
    """How many processes scan a file."""
    if plan.settings.processes is not None:
        return max(1, plan.settings.processes)
    if plan.size < WORTH_BYTES or not sys.executable:
        return 1
    return max(
        1, min(MAX_PROCESSES, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    )


def parts_of(plan: ScanPlan) -> Iterator[tuple[int, Part]]:
    """Yield (byte offset behind the part, part) in the order of the file."""
    number = processes_for(plan)
    if number == 1:
        scanner = Scanner(plan)
        for block in read_blocks(plan.path, max_line_bytes=plan.settings.max_line_bytes):
            yield end_of(block), scanner.scan(block)
        return
    workers = [Worker(plan) for _ in range(number)]
    try:
        yield from _in_order(workers, plan.size)
    finally:
        for worker in workers:
            worker.close()


def end_of(block: Block) -> int:
    """Byte offset behind a block."""
    return block.offset + (block.too_long or len(block.data))


def _in_order(workers: list[Worker], size: int) -> Iterator[tuple[int, Part]]:
    """Deal the ranges out in turn; each worker has one range running and one waiting."""
    starts = range(0, size, RANGE_BYTES)
    for turn, start in enumerate(starts[: 2 * len(workers)]):
        workers[turn % len(workers)].ask(start, start + RANGE_BYTES)
    for turn, start in enumerate(starts):
        worker = workers[turn % len(workers)]
        part = worker.answer()
        ahead = turn + 2 * len(workers)
        if ahead < len(starts):
            worker.ask(starts[ahead], starts[ahead] + RANGE_BYTES)
        yield min(size, start + RANGE_BYTES), part


class Worker:
    """One process that scans ranges; it is asked and answers through pipes."""

    def __init__(self, plan: ScanPlan) -> None:
        root = str(Path(__file__).resolve().parents[2])
        # Its own interpreter and not a fork: callers may have threads, and need no guard around their main module.
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import sys; sys.path.insert(0, {root!r}); from ftpipe.dataset.pool import work; work()",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._send(plan)

    def _send(self, item: object) -> None:
        pipe = self._process.stdin
        if pipe is None:
            raise _gone()
        try:
            pickle.dump(item, pipe, protocol=5)
            pipe.flush()
        except OSError as exc:
            raise _gone() from exc

    def ask(self, start: int, end: int) -> None:
        """Ask for the lines that begin in a byte range."""
        self._send((start, end))

    def answer(self) -> Part:
        """Wait for the part of the range that was asked for first.

        Raises:
            StateError: The process ended.
        """
        if self._process.stdout is None:
            raise _gone()
        try:
            part = pickle.load(self._process.stdout)  # noqa: S301  # from our own child
        except (EOFError, pickle.UnpicklingError, OSError) as exc:
            raise _gone() from exc
        if isinstance(part, StateError):
            raise part
        if not isinstance(part, Part):
            raise _gone()
        return part

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue
        self._process.terminate()
        self._process.wait()


def _gone() -> StateError:
    return StateError(
        "A scanning process ended early.", "Try again; with [checks] processes = 1 everything runs in one."
    )


def work(source: IO[bytes] | None = None, sink: IO[bytes] | None = None) -> None:
    """The worker's loop: a plan, then ranges, until the pipe is closed."""
    asked, answers = source or sys.stdin.buffer, sink or sys.stdout.buffer
    scanner: Scanner | None = None
    while True:
        try:
            item = pickle.load(asked)  # noqa: S301  # from our own parent
        except EOFError:
            return
        if scanner is None:
            scanner = Scanner(item)
            continue
        pickle.dump(_scan_range(scanner, *item), answers, protocol=5)
        answers.flush()


def _scan_range(scanner: Scanner, start: int, end: int) -> Part | StateError:
    whole = scanner.new_part()
    try:
        for block in read_blocks(scanner.plan.path, start, end, max_line_bytes=scanner.plan.settings.max_line_bytes):
            part = scanner.scan(block)
            whole.merge(part, keep_prints=True)
    except StateError as exc:
        return exc
    return whole
