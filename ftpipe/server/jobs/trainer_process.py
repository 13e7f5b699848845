"""Trainer processes: start them in a session of their own, find them after a restart, and make sure that they end.

The server locks a file in the job directory and hands the open file to the trainer. The system releases that lock when
the last process that holds it dies, in whatever way. So "is a trainer running on this directory" has one reliable
answer, without a pid and without a heartbeat.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from ftpipe.atomic_files import read_json, write_json
from ftpipe.child_environment import child_environment, python_path
from ftpipe.process_priority import lower_priority
from ftpipe.training.job_directory import JobDirectory

NICE = 5
"""Requests come first if both need the processor."""
KILL_AFTER_SECONDS = 3.0
"""Seconds between SIGTERM and SIGKILL."""


@dataclass(slots=True)
class TrainerProcess:
    """A running trainer, started by this server or by an earlier one."""

    directory: JobDirectory
    pid: int | None
    """``None`` while the process is not known yet, though the directory is locked."""
    process: subprocess.Popen[bytes] | None = None
    """Only for a child of this server."""
    terminate_sent_at: float | None = None
    """When SIGTERM was sent, on the monotonic clock."""
    pause_sent: bool = False
    oom_kills_before: int | None = None
    """How often the system had killed processes for lack of memory when this one was started."""

    def is_alive(self) -> bool:
        """True while the trainer, or any process that it started, holds the lock."""
        if self.process is not None:
            # Reaps the child, so that no zombie is left behind.
            self.process.poll()
        return is_locked(self.directory)

    @property
    def exit_code(self) -> int | None:
        """How the child ended; ``None`` while it runs, or if an earlier server started it."""
        return None if self.process is None else self.process.returncode

    @property
    def was_oom_killed(self) -> bool:
        """True if it was killed by SIGKILL, not by this server, and the system says that the memory had run out."""
        if self.exit_code != -signal.SIGKILL or self.terminate_sent_at is not None or self.oom_kills_before is None:
            return False
        return (count_oom_kills() or 0) > self.oom_kills_before

    def pause(self) -> None:
        """Ask the trainer to save its state after the current step and to end."""
        if not self.pause_sent:
            self.pause_sent = self._send(signal.SIGUSR1)

    def terminate(self) -> None:
        """Send SIGTERM; called again some seconds later, kill the trainer and all its children."""
        if self.terminate_sent_at is None:
            if self._send(signal.SIGTERM):
                self.terminate_sent_at = time.monotonic()
        elif time.monotonic() - self.terminate_sent_at > KILL_AFTER_SECONDS:
            self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> bool:
        if self.pid is None:
            self.pid = _find_pid(self.directory)
        if self.pid is None:
            return False
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                # The trainer leads its own session, so its group is the trainer and its workers.
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)
        return True


def start(command: tuple[str, ...], directory: JobDirectory, *, downloads: bool = False) -> TrainerProcess | None:
    """Start a trainer on a job directory.

    Args:
        command: Starts it; the directory is added.
        directory: The job directory.
        downloads: Whether it downloads the base model.

    Returns:
        The trainer, or ``None`` if one is running on the directory already.

    Raises:
        OSError: If the process cannot be started.
    """
    oom_kills = count_oom_kills()
    handle = os.open(directory.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _lock(handle):
            return None
        with directory.log_file.open("ab") as log:
            process = subprocess.Popen(
                [*command, str(directory.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(handle,),
                start_new_session=True,
                cwd=directory.path,
                env=trainer_environment(downloads=downloads),
            )
    finally:
        os.close(handle)
    lower_priority(NICE, process.pid)
    write_json(directory.process_file, {"pid": process.pid, "created": _created(process.pid)}, mode=0o600)
    return TrainerProcess(directory, process.pid, process, oom_kills_before=oom_kills)


def count_oom_kills(path: Path = Path("/proc/vmstat")) -> int | None:
    """How many processes Linux has killed for lack of memory since it started, those of containers included.

    Returns:
        ``None`` if the system does not say.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9, for example; most real-time signals have no name."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def find_running(directory: JobDirectory) -> TrainerProcess | None:
    """The trainer that is running on a directory, or ``None``."""
    return TrainerProcess(directory, _find_pid(directory)) if is_locked(directory) else None


def is_locked(directory: JobDirectory) -> bool:
    """True while a trainer holds the directory's lock."""
    try:
        handle = os.open(directory.lock_file, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _lock(handle)
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def trainer_environment(*, downloads: bool) -> dict[str, str]:
    """The environment of a process that imports this same ftpipe, without secrets."""
    environment = child_environment(downloads=downloads)
    # Its threads sleep instead of spinning while they wait, because the server runs beside them.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.setdefault("KMP_BLOCKTIME", "0")
    # The trainer runs in the job directory, from where relative paths of the server would lead nowhere.
    environment["PYTHONPATH"] = python_path()
    return environment


def _find_pid(directory: JobDirectory) -> int | None:
    """The pid of the directory's trainer: as recorded at its start, else by its command line."""
    record = read_json(directory.process_file) or {}
    pid = record.get("pid")
    if isinstance(pid, int) and record.get("created") is not None and _created(pid) == record["created"]:
        return pid
    for process in psutil.process_iter(["pid", "cmdline"]):
        if str(directory.path) in (process.info["cmdline"] or ()):
            return int(process.info["pid"])
    return None


def _created(pid: int) -> float | None:
    """When a process was created, to recognize a pid that the system has used again."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None
