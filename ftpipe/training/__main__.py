"""Entry point of a trainer process, ``python -m ftpipe.training JOBDIR``, and with ``--worker`` of its workers.

SIGUSR1 pauses the job at the next step. SIGTERM terminates immediately; all files are written atomically.
"""

from __future__ import annotations

import signal
import sys
import traceback
from pathlib import Path
from types import FrameType


class PauseFlag:
    """Set by SIGUSR1."""

    def __init__(self) -> None:
        self.is_set = False

    def __call__(self) -> bool:
        """Whether the signal was received."""
        return self.is_set

    def handle_signal(self, _number: int, _frame: FrameType | None) -> None:
        """Handle the signal."""
        self.is_set = True


def main(arguments: list[str]) -> int:
    """Run the job of a directory; 0 if it has a result or is paused, 2 on wrong arguments, 71 if memory ran out."""
    flag = PauseFlag()
    signal.signal(signal.SIGUSR1, flag.handle_signal)  # before the slow imports: the signal may come early
    is_worker = arguments[:1] == ["--worker"]
    if len(arguments) != (5 if is_worker else 1):
        sys.stderr.write("usage: python -m ftpipe.training JOBDIR | --worker FOLDER RANK WORLD_SIZE STRATEGY\n")
        return 2
    from ftpipe.modeling.device import use_passive_omp_wait

    use_passive_omp_wait()
    from ftpipe.training.job_directory import OUT_OF_MEMORY_EXIT_CODE, JobDirectory
    from ftpipe.training.launcher import LostWorkerError, WorkerArguments, end_like, run_worker
    from ftpipe.training.run import run_job

    try:
        if is_worker:
            run_worker(WorkerArguments.parse(arguments[1:]))
        else:
            run_job(JobDirectory(Path(arguments[0]).absolute()), flag)
    except LostWorkerError as exc:
        traceback.print_exc()
        end_like(exc.exit_code)
    except Exception as exc:
        if not is_out_of_memory(exc):
            raise
        traceback.print_exc()
        return OUT_OF_MEMORY_EXIT_CODE
    return 0


def is_out_of_memory(exc: Exception) -> bool:
    """True for Python's error and those of torch, which for a CPU is a plain ``RuntimeError``."""
    is_cpu_error = isinstance(exc, RuntimeError) and "can't allocate memory" in str(exc)
    return isinstance(exc, MemoryError) or type(exc).__name__ == "OutOfMemoryError" or is_cpu_error


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
