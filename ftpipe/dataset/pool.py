"""Scans a large file in several processes: workers take byte ranges, and the parts are put together in order."""

from __future__ import annotations

import contextlib
import gc
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

RANGE_BYTES = 2 * 1024 * 1024
READ_BYTES = RANGE_BYTES + 128 * 1024
"""So that the last line of a range is nearly always read with it."""
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
    crew = Crew(plan, number)
    try:
        yield from _in_order(crew.workers, plan.size)
    finally:
        crew.close()


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
    """A process that scans ranges; it is asked and answers through pipes."""

    def __init__(self, asks: IO[bytes], answers: IO[bytes]) -> None:
        self._asks, self._answers = asks, answers

    def ask(self, start: int, end: int) -> None:
        """Ask for the lines that begin in a byte range."""
        self.send((start, end))

    def send(self, item: object) -> None:
        """Hand the process what it waits for: the plan first, then ranges.

        Raises:
            StateError: The process ended.
        """
        try:
            pickle.dump(item, self._asks, protocol=5)
            self._asks.flush()
        except OSError as exc:
            raise _gone() from exc

    def answer(self) -> Part:
        """Wait for the part of the range that was asked for first.

        Raises:
            StateError: The process ended.
        """
        try:
            part = pickle.load(self._answers)  # noqa: S301  # from our own child
        except (EOFError, pickle.UnpicklingError, OSError) as exc:
            raise _gone() from exc
        if isinstance(part, StateError):
            raise part
        if not isinstance(part, Part):
            raise _gone()
        return part

    def close(self) -> None:
        """Tell the process that nothing more will be asked."""
        for pipe in (self._asks, self._answers):
            try:
                pipe.close()
            except OSError:
                continue


class Crew:
    """The processes that scan one file.

    They are interpreters of their own and no forks of this one, whose caller may have threads. Where the system can,
    one builds the tokenizer and forks the others, which share it.
    """

    def __init__(self, plan: ScanPlan, number: int) -> None:
        self.workers: list[Worker] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        for size in [number] if hasattr(os, "fork") else [1] * number:
            self._start(plan, size)

    def _start(self, plan: ScanPlan, size: int) -> None:
        """Start a process that makes ``size`` workers of itself."""
        if os.name == "nt":
            process = subprocess.Popen([*_COMMAND, ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            pipes = [(process.stdin, process.stdout)]
        else:
            ends = [(*os.pipe(), *os.pipe()) for _ in range(size)]
            theirs = [fd for ask, _, _, answer in ends for fd in (ask, answer)]
            numbers = ",".join(map(str, theirs))
            process = subprocess.Popen([*_COMMAND, numbers], stdin=subprocess.DEVNULL, pass_fds=theirs)
            for fd in theirs:
                os.close(fd)
            pipes = [(os.fdopen(ask, "wb"), os.fdopen(answer, "rb")) for _, ask, answer, _ in ends]
        self.processes.append(process)
        for asks, answers in pipes:
            if asks is not None and answers is not None:
                self.workers.append(Worker(asks, answers))
        self.workers[-size].send(plan)

    def close(self) -> None:
        """End the processes."""
        for worker in self.workers:
            worker.close()
        for process in self.processes:
            process.terminate()
            process.wait()


_ROOT = str(Path(__file__).resolve().parents[2])
_COMMAND = [
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {_ROOT!r}); from ftpipe.dataset.pool import serve; serve(sys.argv[1])",
]


def _gone() -> StateError:
    return StateError(
        "A scanning process ended early.", "Try again; with [checks] processes = 1 everything runs in one."
    )


def serve(numbers: str) -> None:
    """Be the workers whose pipes have these numbers: (questions, answers) of each; none for the standard ones."""
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        _serve([int(number) for number in numbers.split(",") if number])


def _serve(fds: list[int]) -> None:
    pipes = [(os.fdopen(fds[at], "rb"), os.fdopen(fds[at + 1], "wb")) for at in range(0, len(fds), 2)]
    asks, answers = pipes.pop(0) if pipes else (sys.stdin.buffer, sys.stdout.buffer)
    scanner = Scanner(pickle.load(asks))  # noqa: S301  # from our own parent
    scanner.make_ready()
    gc.collect()
    gc.freeze()
    for own in pipes:
        if os.fork() == 0:
            for pipe in (asks, answers, *(pipe for other in pipes if other is not own for pipe in other)):
                pipe.close()
            with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
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


def _scan_range(scanner: Scanner, start: int, end: int) -> Part | StateError:
    whole = Part.of(scanner.plan)
    try:
        for block in read_blocks(
            scanner.plan.path, start, end, max_line_bytes=scanner.plan.settings.max_line_bytes, block_bytes=READ_BYTES
        ):
            part = scanner.scan(block)
            whole.merge(part, keep_prints=True)
    except StateError as exc:
        return exc
    return whole
