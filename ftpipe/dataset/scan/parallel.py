"""Scans a large file in several processes: workers scan byte ranges, and their results are returned in order."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import sys
from collections.abc import Iterator
from typing import IO

from ftpipe.dataset.reader import read_blocks
from ftpipe.dataset.scan.plan import PartialScan, ScanPlan
from ftpipe.dataset.scan.scanner import Scanner, preload
from ftpipe.dataset.scan.worker_processes import Worker, acquire_pool, processes_for
from ftpipe.errors import LocalStateError

RANGE_BYTES = 2 * 1024 * 1024
READ_BYTES = RANGE_BYTES + 128 * 1024
"""So that one read nearly always includes the whole last line of a range."""

GC_THRESHOLD = 100_000
"""New objects between two garbage collections in a worker, which makes many objects and no reference cycles."""


def scan_in_parallel(plan: ScanPlan) -> Iterator[tuple[int, PartialScan]]:
    """Yield (byte offset after the part, part) in the order of the file."""
    size, settings = plan.file.size_bytes, plan.file.settings
    number = processes_for(size) if settings.processes is None else max(1, settings.processes)
    if number == 1:
        scanner = Scanner(plan)
        for block in read_blocks(plan.path, max_line_bytes=settings.max_line_bytes):
            yield block.offset + (block.too_long or len(block.data)), scanner.scan(block)
        return
    pool = acquire_pool(plan, number)
    try:
        yield from _in_order(pool.workers, size)
    finally:
        pool.close()


def _in_order(workers: list[Worker], size: int) -> Iterator[tuple[int, PartialScan]]:
    """Assign the ranges in turn; each worker scans one range and has the next one queued."""
    starts = range(0, size, RANGE_BYTES)
    for turn, start in enumerate(starts[: 2 * len(workers)]):
        workers[turn % len(workers)].submit(start, start + RANGE_BYTES)
    for turn, start in enumerate(starts):
        worker = workers[turn % len(workers)]
        part = worker.result()
        if not isinstance(part, PartialScan):
            raise TypeError(f"a worker returned {part!r}")
        ahead = turn + 2 * len(workers)
        if ahead < len(starts):
            worker.submit(starts[ahead], starts[ahead] + RANGE_BYTES)
        yield min(size, start + RANGE_BYTES), part


def worker_main(file_descriptors: str, prestarted: str) -> None:
    """The program of a worker process, which forks further workers.

    Args:
        file_descriptors: Pipes for requests and results of each worker, comma-separated; empty: stdin, stdout.
        prestarted: Not empty if the plan is not known yet, so that what most files need is built meanwhile.
    """
    with contextlib.suppress(EOFError, BrokenPipeError):
        _run_workers([int(number) for number in file_descriptors.split(",") if number], is_prestarted=bool(prestarted))


def _run_workers(fds: list[int], *, is_prestarted: bool) -> None:
    pipes = [(os.fdopen(fds[i], "rb"), os.fdopen(fds[i + 1], "wb")) for i in range(0, len(fds), 2)]
    requests, results = pipes.pop(0) if pipes else (sys.stdin.buffer, sys.stdout.buffer)
    if is_prestarted:
        preload()
    plan = pickle.load(requests)  # noqa: S301  # from our own parent
    if plan.file.settings.engine == "auto":
        preload(plan.encoding)
    scanner = Scanner(plan)
    scanner.build_counter()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 10)
    for own in pipes:
        if os.fork() == 0:
            for pipe in (requests, results, *(pipe for other in pipes if other is not own for pipe in other)):
                pipe.close()
            with contextlib.suppress(EOFError, BrokenPipeError):
                scan_ranges(scanner, *own)
            os._exit(0)
    for other in pipes:
        for pipe in other:
            pipe.close()
    scan_ranges(scanner, requests, results)


def scan_ranges(scanner: Scanner, requests: IO[bytes], results: IO[bytes]) -> None:
    """Scan the requested ranges until the pipe is closed, which raises ``EOFError``."""
    while True:
        pickle.dump(_scan_range(scanner, *pickle.load(requests)), results, protocol=5)  # noqa: S301  # own parent
        results.flush()


def _scan_range(scanner: Scanner, start: int, end: int) -> PartialScan | LocalStateError:
    """Scan the lines that begin in a range, nearly always one block."""
    plan, whole = scanner.plan, None
    limit = plan.file.settings.max_line_bytes
    try:
        for block in read_blocks(plan.path, start, end, max_line_bytes=limit, block_bytes=READ_BYTES):
            part = scanner.scan(block)
            if whole is None:
                whole = part
            else:
                whole.merge(part, merge_fingerprints=True)
    except LocalStateError as exc:
        return exc
    return whole or PartialScan.of(plan)
