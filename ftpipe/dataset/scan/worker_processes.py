"""The processes that scan a large file. They can be started before it is known what exactly is asked of them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from ftpipe.errors import LocalStateError

PARALLEL_MIN_BYTES = 12 * 1024 * 1024
"""Below this size one process is sooner done than two have started."""
MAX_PROCESSES = 8
_ROOT = str(Path(__file__).resolve().parents[3])
_PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    f"sys.path.insert(0, {_ROOT!r}); from ftpipe.dataset.scan.parallel import worker_main; worker_main(*sys.argv[1:])"
)
"""Ctrl-C is for the program that asks; its processes end when their pipes do."""


def processes_for(size: int) -> int:
    """How many processes scan a file of so many bytes."""
    if size < PARALLEL_MIN_BYTES or not sys.executable:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MAX_PROCESSES, cores))


class Worker:
    """A process that scans ranges; it is asked and answers through pipes."""

    def __init__(self, asks: IO[bytes], answers: IO[bytes]) -> None:
        self._asks, self._answers = asks, answers

    def submit(self, start: int, end: int) -> None:
        """Ask for the lines that begin in a byte range."""
        self.send((start, end))

    def send(self, item: object) -> None:
        """Hand the process what it waits for: the plan first, then ranges.

        Raises:
            LocalStateError: The process ended.
        """
        try:
            pickle.dump(item, self._asks, protocol=5)
            self._asks.flush()
        except OSError as exc:
            raise _gone() from exc

    def result(self) -> object:
        """Wait for the part of the range that was asked for first.

        Raises:
            LocalStateError: The process ended, or could not read the file.
        """
        try:
            part = pickle.load(self._answers)  # noqa: S301  # from our own child
        except (EOFError, pickle.UnpicklingError, OSError) as exc:
            raise _gone() from exc
        if isinstance(part, LocalStateError):
            raise part
        return part

    def close(self) -> None:
        """Tell the process that nothing more will be asked."""
        for pipe in (self._asks, self._answers):
            try:
                pipe.close()
            except OSError:
                continue


class WorkerPool:
    """The processes that scan one file.

    They are interpreters of their own and no forks of this one, whose caller may have threads. Where the system can,
    one builds the tokenizer and forks the others, which share it.

    Args:
        number: How many.
        early: They are told later what to scan, and build meanwhile what most files need.
    """

    def __init__(self, number: int, *, early: bool = False) -> None:
        self.workers: list[Worker] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self._heads: list[Worker] = []
        for size in [number] if hasattr(os, "fork") else [1] * number:
            self._start(size, "early" if early else "")

    def _start(self, size: int, early: str) -> None:
        """Start a process that makes ``size`` workers of itself."""
        if os.name == "nt":
            command = [sys.executable, "-c", _PROGRAM, "", early]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            pipes = [(process.stdin, process.stdout)]
        else:
            ends = [(*os.pipe(), *os.pipe()) for _ in range(size)]
            theirs = [fd for ask, _, _, answer in ends for fd in (ask, answer)]
            command = [sys.executable, "-c", _PROGRAM, ",".join(map(str, theirs)), early]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=theirs)
            for fd in theirs:
                os.close(fd)
            pipes = [(os.fdopen(ask, "wb"), os.fdopen(answer, "rb")) for _, ask, answer, _ in ends]
        self.processes.append(process)
        self.workers += [Worker(asks, answers) for asks, answers in pipes if asks is not None and answers is not None]
        self._heads.append(self.workers[-size])

    def send_plan(self, plan: object) -> None:
        """Tell every process what is scanned.

        Raises:
            LocalStateError: One ended.
        """
        for head in self._heads:
            head.send(plan)

    def close(self) -> None:
        """End the processes."""
        for worker in self.workers:
            worker.close()
        for process in self.processes:
            process.terminate()
            process.wait()


_early: list[WorkerPool] = []
"""The crew that waits for its plan; none or one."""


def prestart_workers(words: Iterable[str]) -> None:
    """Start the crew for a large file that a command line names, while the program itself is still being loaded.

    Args:
        words: The words of the command line.
    """
    for word in words:
        try:
            number = processes_for(Path(word).stat().st_size)
            if number > 1:
                _early.append(WorkerPool(number, early=True))
                return
        except (OSError, ValueError):  # not the name of a file, or no process to be had; it is met again later
            continue


def acquire_pool(plan: object, number: int) -> WorkerPool:
    """A crew of so many workers that knows its plan: the one that waits, or a new one.

    Raises:
        LocalStateError: A process ended.
    """
    crew = _early.pop() if _early else None
    if crew is not None and len(crew.workers) != number:
        crew.close()
        crew = None
    crew = crew or WorkerPool(number)
    crew.send_plan(plan)
    return crew


def _gone() -> LocalStateError:
    return LocalStateError(
        "A scanning process ended early.", "Try again; with [checks] processes = 1 everything runs in one."
    )
