"""Entry of the trainer's process: ``python -m ftpipe.training JOBDIR``, or ``--worker`` to help another one.

SIGUSR1 pauses at the next step; SIGTERM ends the process where it stands, which no file minds.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType


class PauseFlag:
    """Remembers that SIGUSR1 came."""

    def __init__(self) -> None:
        self.raised = False

    def __call__(self) -> bool:
        """Whether it came."""
        return self.raised

    def catch(self, _number: int, _frame: FrameType | None) -> None:
        """The signal's handler."""
        self.raised = True


def main(arguments: list[str]) -> int:
    """Run the job folder that is named; 0 where the job has a result or is paused, 2 on a wrong call."""
    flag = PauseFlag()
    signal.signal(signal.SIGUSR1, flag.catch)  # before the slow imports: the signal may come early
    if len(arguments) == 4 and arguments[0] == "--worker":
        from ftpipe.training.launcher import run_local_worker

        run_local_worker(arguments[1], rank=int(arguments[2]), size=int(arguments[3]))
        return 0
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m ftpipe.training JOBDIR | --worker STORE RANK SIZE\n")
        return 2
    from ftpipe.modeling.device import use_passive_omp_wait
    from ftpipe.training.job_directory import JobDirectory
    from ftpipe.training.run import run_job

    use_passive_omp_wait()
    run_job(JobDirectory(Path(arguments[0]).absolute()), flag)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
