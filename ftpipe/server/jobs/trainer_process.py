"""Trainer processes: started in their own session, found again after a restart, ended for sure.

A lock file in the job's folder is locked by the server and handed to the trainer as an open file. The system drops
that lock when the last holder dies, however it dies, so "is a trainer at work in this folder" has one true answer
that needs neither a pid nor a heartbeat.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from ftpipe.atomic_files import read_json, write_json

LOCK = "trainer.lock"
PID_FILE = "trainer.json"
LOG = "trainer.log"
NICE = 5
KILL_AFTER_SECONDS = 3.0
"""Seconds between SIGTERM and SIGKILL."""


@dataclass(slots=True)
class TrainerProcess:
    """A trainer at work, started by this server or by the one before it."""

    folder: Path
    pid: int | None
    """``None`` where the process cannot be named yet, though the folder is locked."""
    process: subprocess.Popen[bytes] | None = None
    """Only for our own child."""
    signalled_at: float | None = None
    """When it was told to end, on the monotonic clock."""
    pause_sent: bool = False

    def is_alive(self) -> bool:
        """True while the trainer, or anything that it started, works in the folder."""
        if self.process is not None:
            # Reaps the child, so that no zombie is left behind.
            self.process.poll()
        return is_locked(self.folder)

    @property
    def exit_code(self) -> int | None:
        """How our own child ended; ``None`` for another's, or while it runs."""
        return None if self.process is None else self.process.returncode

    def pause(self) -> None:
        """Ask the trainer to keep its state at the next step and to end."""
        if not self.pause_sent:
            self.pause_sent = self._send(signal.SIGUSR1)

    def terminate(self) -> None:
        """Tell the trainer to end at once; after a grace, it and all its children are killed."""
        if self.signalled_at is None:
            if self._send(signal.SIGTERM):
                self.signalled_at = time.monotonic()
        elif time.monotonic() - self.signalled_at > KILL_AFTER_SECONDS:
            self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> bool:
        if self.pid is None:
            self.pid = _find_pid(self.folder)
        if self.pid is None:
            return False
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                # The trainer leads its own session, so its group is it and its helpers.
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)
        return True


def start(command: tuple[str, ...], folder: Path) -> TrainerProcess | None:
    """Start a trainer on a job's folder.

    Returns:
        The trainer, or ``None`` where one is at work in the folder already.

    Raises:
        OSError: If the process cannot be started.
    """
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _lock(handle):
            return None
        with (folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                [*command, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(handle,),
                start_new_session=True,
                cwd=folder,
                env=trainer_environment(),
            )
    finally:
        os.close(handle)
    with suppress(psutil.Error, OSError):
        # Requests are answered first when both want the processor.
        psutil.Process(process.pid).nice(NICE)
    write_json(folder / PID_FILE, {"pid": process.pid, "created": _created(process.pid)}, mode=0o600)
    return TrainerProcess(folder, process.pid, process)


def find_running(folder: Path) -> TrainerProcess | None:
    """The trainer that is at work in a folder, or ``None``."""
    return TrainerProcess(folder, _find_pid(folder)) if is_locked(folder) else None


def is_locked(folder: Path) -> bool:
    """True while a trainer holds the folder's lock."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR)
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


def trainer_environment() -> dict[str, str]:
    """The environment for a trainer: ours without keys, and with this very ftpipe to import."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    # The trainer runs in the job's folder, where a path relative to ours would lead nowhere.
    # Its threads shall sleep instead of spinning while they wait, for the server works beside them.
    kept.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    kept.setdefault("KMP_BLOCKTIME", "0")
    kept["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry)
    return kept


def _find_pid(folder: Path) -> int | None:
    """The pid of the trainer in a folder: as noted at its start, else by its command line."""
    note = read_json(folder / PID_FILE) or {}
    pid = note.get("pid")
    if isinstance(pid, int) and note.get("created") is not None and _created(pid) == note["created"]:
        return pid
    for process in psutil.process_iter(["pid", "cmdline"]):
        if str(folder) in (process.info["cmdline"] or ()):
            return int(process.info["pid"])
    return None


def _created(pid: int) -> float | None:
    """When a process was made, so that a pid that was given out again is not mistaken."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None
