"""Scans a large file in several processes: workers take byte ranges, and the parts are put together in order."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import sys
from collections.abc import Iterator
from typing import IO

from ftpipe.dataset.reader import Block, read_blocks
from ftpipe.dataset.scan.plan import PartialScan, ScanPlan
from ftpipe.dataset.scan.scanner import Scanner, preload
from ftpipe.dataset.scan.worker_processes import Worker, acquire_pool, processes_for
from ftpipe.errors import LocalStateError

RANGE_BYTES = 2 * 1024 * 1024
READ_BYTES = RANGE_BYTES + 128 * 1024
"""So that the last line of a range is nearly always read with it."""

GC_THRESHOLD = 100_000
"""Objects made between two searches for garbage in a worker, which makes many and leaves no cycles."""


def scan_in_parallel(plan: ScanPlan) -> Iterator[tuple[int, PartialScan]]:
    """Yield (byte offset behind the part, part) in the order of the file."""
    wanted = plan.settings.processes
    number = processes_for(plan.size) if wanted is None else max(1, wanted)
    if number == 1:
        scanner = Scanner(plan)
        for block in read_blocks(plan.path, max_line_bytes=plan.settings.max_line_bytes):
            yield end_of(block), scanner.scan(block)
        return
    crew = acquire_pool(plan, number)
    try:
        yield from _in_order(crew.workers, plan.size)
    finally:
        crew.close()


def end_of(block: Block) -> int:
    """Byte offset behind a block."""
    return block.offset + (block.too_long or len(block.data))


def _in_order(workers: list[Worker], size: int) -> Iterator[tuple[int, PartialScan]]:
    """Deal the ranges out in turn; each worker has one range running and one waiting."""
    starts = range(0, size, RANGE_BYTES)
    for turn, start in enumerate(starts[: 2 * len(workers)]):
        workers[turn % len(workers)].submit(start, start + RANGE_BYTES)
    for turn, start in enumerate(starts):
        worker = workers[turn % len(workers)]
        part = worker.result()
        if not isinstance(part, PartialScan):
            raise TypeError(f"a worker answered with {part!r}")
        ahead = turn + 2 * len(workers)
        if ahead < len(starts):
            worker.submit(starts[ahead], starts[ahead] + RANGE_BYTES)
        yield min(size, start + RANGE_BYTES), part


def worker_main(numbers: str, early: str) -> None:
    """Be the workers whose pipes have these numbers.

    Args:
        numbers: Questions and answers of each, separated by commas; empty for the standard ones.
        early: Not empty where the plan comes later, and what most files need is to be built meanwhile.
    """
    with contextlib.suppress(EOFError, BrokenPipeError):
        _serve([int(number) for number in numbers.split(",") if number], early=bool(early))


def _serve(fds: list[int], *, early: bool) -> None:
    pipes = [(os.fdopen(fds[at], "rb"), os.fdopen(fds[at + 1], "wb")) for at in range(0, len(fds), 2)]
    asks, answers = pipes.pop(0) if pipes else (sys.stdin.buffer, sys.stdout.buffer)
    if early:
        preload()
    plan = pickle.load(asks)  # noqa: S301  # from our own parent
    if plan.settings.engine == "auto":
        preload(plan.encoding)
    scanner = Scanner(plan)
    scanner.build_counter()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 10)
    for own in pipes:
        if os.fork() == 0:
            for pipe in (asks, answers, *(pipe for other in pipes if other is not own for pipe in other)):
                pipe.close()
            with contextlib.suppress(EOFError, BrokenPipeError):
                work(scanner, *own)
            os._exit(0)
    for other in pipes:
        for pipe in other:
            pipe.close()
    work(scanner, asks, answers)


def work(scanner: Scanner, asks: IO[bytes], answers: IO[bytes]) -> None:
    """Answer ranges with parts; ends with ``EOFError`` when the pipe is closed."""
    while True:
        pickle.dump(_scan_range(scanner, *pickle.load(asks)), answers, protocol=5)  # noqa: S301  # from our own parent
        answers.flush()


def _scan_range(scanner: Scanner, start: int, end: int) -> PartialScan | LocalStateError:
    """The part of the lines that begin in a range; nearly always one block."""
    plan, whole = scanner.plan, None
    limit = plan.settings.max_line_bytes
    try:
        for block in read_blocks(plan.path, start, end, max_line_bytes=limit, block_bytes=READ_BYTES):
            part = scanner.scan(block)
            if whole is None:
                whole = part
            else:
                whole.merge(part, keep_prints=True)
    except LocalStateError as exc:
        return exc
    return whole or PartialScan.of(plan)
