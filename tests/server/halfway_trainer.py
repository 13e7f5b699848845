"""A real trainer that takes half of its steps and waits there until it is paused; started again, it takes the others.

So what a test shows of pauses does not depend on how long a step takes. Run as
``python -m tests.server.halfway_trainer JOBDIR``.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path


def main(folder: Path) -> None:
    """Run or resume the job of a directory."""
    # Blocked before the slow imports, and taken below: the signal may come at any time.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    from ftpipe.training.job_directory import JobDirectory
    from ftpipe.training.run import run_job

    directory = JobDirectory(folder)

    def should_pause() -> bool:
        progress = directory.read_progress()
        if 2 * progress.step != progress.total_steps:
            return False
        signal.sigwait({signal.SIGUSR1})
        return True

    run_job(directory, should_pause)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
