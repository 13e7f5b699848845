"""The processes that scan a large file; they can be started before the plan of the scan is known.

``concurrent.futures.ProcessPoolExecutor`` does the same job more slowly: for a file of 20 MB on two cores,
``ftpipe prepare`` takes 1.8 s with this pool, 2.4 s with a preloaded ``forkserver`` and 3.1 s with ``spawn``; with
``spawn`` it needs 2.4 s of CPU time instead of 1.3 s (2026-11-28, the fastest of five; two more series agree).
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from ftpipe.child_environment import child_environment
from ftpipe.errors import LocalStateError

PARALLEL_MIN_BYTES = 12 * 1024 * 1024
"""One process scans a smaller file before two have started."""
MAX_PROCESSES = 8
_ROOT = str(Path(__file__).resolve().parents[3])
_PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    f"sys.path.insert(0, {_ROOT!r}); from ftpipe.dataset.scan.parallel import worker_main; worker_main(*sys.argv[1:])"
)
"""Ctrl-C is handled by the main program; its workers end when their pipes are closed."""


def processes_for(size: int) -> int:
    """Number of processes for a file of ``size`` bytes."""
    if size < PARALLEL_MIN_BYTES or not sys.executable:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MAX_PROCESSES, cores))


class Worker:
    """A process that scans ranges; requests and results are sent through pipes."""

    def __init__(self, requests: IO[bytes], results: IO[bytes]) -> None:
        self._requests, self._results = requests, results

    def submit(self, start: int, end: int) -> None:
        """Request the lines that begin in a byte range."""
        self.send((start, end))

    def send(self, item: object) -> None:
        """Send the plan, and afterwards ranges.

        Raises:
            LocalStateError: The process ended.
        """
        try:
            pickle.dump(item, self._requests, protocol=5)
            self._requests.flush()
        except OSError as exc:
            raise _worker_ended() from exc

    def result(self) -> object:
        """Wait for the result of the oldest request.

        Raises:
            LocalStateError: The process ended, or could not read the file.
        """
        try:
            part = pickle.load(self._results)  # noqa: S301  # from our own child
        except (EOFError, pickle.UnpicklingError, OSError) as exc:
            raise _worker_ended() from exc
        if isinstance(part, LocalStateError):
            raise part
        return part

    def close(self) -> None:
        """Close the pipes, which ends the process."""
        for pipe in (self._requests, self._results):
            try:
                pipe.close()
            except OSError:
                continue


class WorkerPool:
    """The processes that scan one file.

    They are new interpreters and not forks of this one, whose caller may have threads. If the system can fork, one of
    them builds the tokenizer and forks the others, which share it.

    Args:
        number: How many.
        is_prestarted: The plan is sent later; what most files need is built meanwhile.
    """

    def __init__(self, number: int, *, is_prestarted: bool = False) -> None:
        self.workers: list[Worker] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self._plan_receivers: list[Worker] = []
        for size in [number] if hasattr(os, "fork") else [1] * number:
            self._start(size, "prestarted" if is_prestarted else "")

    def _start(self, size: int, prestarted: str) -> None:
        """Start a process that becomes ``size`` workers."""
        if os.name == "nt":
            command = [sys.executable, "-c", _PROGRAM, "", prestarted]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment())
            pipes = [(process.stdin, process.stdout)]
        else:
            ends = [(*os.pipe(), *os.pipe()) for _ in range(size)]
            child_fds = [fd for request, _, _, result in ends for fd in (request, result)]
            command = [sys.executable, "-c", _PROGRAM, ",".join(map(str, child_fds)), prestarted]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=child_fds, env=child_environment())
            for fd in child_fds:
                os.close(fd)
            pipes = [(os.fdopen(request, "wb"), os.fdopen(result, "rb")) for _, request, result, _ in ends]
        self.processes.append(process)
        self.workers += [
            Worker(requests, results) for requests, results in pipes if requests is not None and results is not None
        ]
        self._plan_receivers.append(self.workers[-size])

    def send_plan(self, plan: object) -> None:
        """Send the plan to every process.

        Raises:
            LocalStateError: One ended.
        """
        for worker in self._plan_receivers:
            worker.send(plan)

    def close(self) -> None:
        """End the processes."""
        for worker in self.workers:
            worker.close()
        for process in self.processes:
            process.terminate()
            process.wait()


prestarted_pools: list[WorkerPool] = []
"""The pool that waits for its plan; none or one."""


def prestart_workers(words: Iterable[str]) -> None:
    """Start the pool for a large file that the command line names, while the program itself is still being imported.

    Args:
        words: The words of the command line.
    """
    for word in words:
        try:
            number = processes_for(Path(word).stat().st_size)
            if number > 1:
                prestarted_pools.append(WorkerPool(number, is_prestarted=True))
                return
        except (OSError, ValueError):  # not the name of a file, or no process can be started; it is reported later
            continue


def acquire_pool(plan: object, number: int) -> WorkerPool:
    """A pool of ``number`` workers that has its plan: the prestarted one, or a new one.

    Raises:
        LocalStateError: A process ended.
    """
    pool = prestarted_pools.pop() if prestarted_pools else None
    if pool is not None and len(pool.workers) != number:
        pool.close()
        pool = None
    pool = pool or WorkerPool(number)
    pool.send_plan(plan)
    return pool


def _worker_ended() -> LocalStateError:
    return LocalStateError(
        "A scanning process ended early.", "Try again; with [checks] processes = 1 the file is scanned in one process."
    )
