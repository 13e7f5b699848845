"""A real trainer that takes half of its steps and waits there until it is paused; started again, it takes the others.

So what a test shows of pauses does not depend on how long a step takes. Run as ``halfway_trainer.py JOBDIR``; with
``SOCKET JOBDIR`` it is a process for which ``halfway_server`` forks the trainer, and which passes the signal on.
"""

from __future__ import annotations

import os
import signal
import socket
import sys


def have_forked(address: str, folder: str) -> None:
    """Have a trainer forked, and end with it."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        connection.sendall(folder.encode())
        pid = int(connection.recv(20))
        signal.signal(signal.SIGUSR1, lambda *_: os.kill(pid, signal.SIGUSR1))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        connection.recv(1)


def train(folder: str) -> None:
    """Run or resume the job of a directory; SIGUSR1 must be blocked."""
    from pathlib import Path

    from ftpipe.training.job_directory import JobDirectory
    from ftpipe.training.run import run_job

    directory = JobDirectory(Path(folder))

    def should_pause() -> bool:
        progress = directory.read_progress()
        if 2 * progress.step != progress.total_steps:
            return False
        signal.sigwait({signal.SIGUSR1})
        return True

    run_job(directory, should_pause)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # it may come at any time
    if len(sys.argv) == 2:
        train(sys.argv[1])
    else:
        have_forked(*sys.argv[1:])
