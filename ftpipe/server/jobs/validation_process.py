"""Runs the validation of a job's files in a process with a time and a memory limit.

The files come from clients. Whatever they do to the rules, the server goes on answering, and stops at once.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ftpipe.atomic_files import read_json
from ftpipe.child_environment import child_environment, python_path
from ftpipe.errors import LocalStateError
from ftpipe.process_priority import lower_priority
from ftpipe.server.jobs.trainer_process import NICE, signal_name
from ftpipe.server.storage import JobRow
from ftpipe.training.job_directory import OUT_OF_MEMORY_EXIT_CODE, JobDirectory

log = logging.getLogger("ftpipe.server.jobs")

COMMAND = (sys.executable, "-m", "ftpipe.server.jobs.file_validation")
BASE_TIMEOUT_SECONDS = 300.0
MIN_BYTES_PER_SECOND = 1024 * 1024
"""What the timeout allows for large files; usual is twenty times as much."""
MAX_MEMORY_BYTES = 8 * 1024**3
"""Of address space; the memory that is used is far below it, also for the largest files."""


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """How the validation of a job's files ended; ``error`` is ``None`` if they are valid."""

    error: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class ValidationCrash:
    """The validation ended without a result."""

    reason: str
    """For example ``it took longer than 300 seconds``."""


class RunningValidation(Protocol):
    """A validation that was started."""

    def poll(self) -> ValidationResult | ValidationCrash | None:
        """How it ended; ``None`` while it runs."""

    def stop(self) -> None:
        """End it at once."""


StartValidation = Callable[[JobRow, JobDirectory], RunningValidation]


class ValidationProcess:
    """The validation of one job's files in a process.

    Args:
        job: The job.
        directory: Its directory, with the files.
        command: Starts the process.
        timeout_seconds: After this time the process is killed; ``None`` for one that follows from the files' size.
    """

    def __init__(
        self,
        job: JobRow,
        directory: JobDirectory,
        *,
        command: tuple[str, ...] = COMMAND,
        timeout_seconds: float | None = None,
    ) -> None:
        files = [directory.training_file, *([directory.validation_file] if job.validation_file else [])]
        self._timeout = timeout_seconds or BASE_TIMEOUT_SECONDS + sum(map(_size, files)) / MIN_BYTES_PER_SECOND
        self._deadline = time.monotonic() + self._timeout
        self._output = directory.path / "files.json"
        self._output.unlink(missing_ok=True)
        limits = [str(MAX_MEMORY_BYTES), str(int(self._timeout) + 1)]
        hyperparameters = json.dumps(job.requested_hyperparameters)
        arguments = [str(self._output), *limits, job.method, job.base, hyperparameters, *map(str, files)]
        try:
            with directory.log_file.open("ab") as output:
                self._process = subprocess.Popen(
                    [*command, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    cwd=directory.path,
                    env=child_environment({"PYTHONPATH": python_path()}),
                )
        except OSError as exc:
            raise LocalStateError(f"the check of the files cannot be started: {exc}") from exc
        lower_priority(NICE, self._process.pid)

    def poll(self) -> ValidationResult | ValidationCrash | None:
        """How the process ended; ``None`` while it runs."""
        code = self._process.poll()
        if code is None:
            if time.monotonic() < self._deadline:
                return None
            self.stop()
            return ValidationCrash(f"it took longer than {self._timeout:,.0f} seconds")
        error = read_json(self._output) if code == 0 else None
        self._output.unlink(missing_ok=True)
        if error is not None:
            return ValidationResult(error or None)
        if code == OUT_OF_MEMORY_EXIT_CODE:
            return ValidationCrash(f"it needed more than {MAX_MEMORY_BYTES // 1024**3} GiB of memory")
        if code < 0:
            return ValidationCrash(f"it was ended by {signal_name(-code)}")
        return ValidationCrash(f"it ended with exit code {code}")

    def stop(self) -> None:
        """Kill the process."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class FileValidator:
    """Validates the files of one job at a time.

    Args:
        start: Starts a validation.
    """

    def __init__(self, start: StartValidation = ValidationProcess) -> None:
        self._start = start
        self._job_id = ""
        self._running: RunningValidation | None = None

    @property
    def is_free(self) -> bool:
        """True if a validation may be started."""
        return self._running is None

    def start(self, job: JobRow, directory: JobDirectory) -> None:
        """Start the validation of a job's files.

        Raises:
            LocalStateError: The process cannot be started.
        """
        self._running = self._start(job, directory)
        self._job_id = job.id

    def poll(self, job: JobRow) -> ValidationResult | ValidationCrash | None:
        """How the validation of a job's files ended; ``None`` if it runs, or if none was started."""
        if self._running is None or self._job_id != job.id:
            return None
        ended = self._running.poll()
        if ended is not None:
            self._running = None
        if isinstance(ended, ValidationCrash):
            log.error("the check of the files of job %s failed: %s", job.id, ended.reason)
        return ended

    def is_running(self, job: JobRow) -> bool:
        """True if the validation of this job's files has been started and not been polled to its end."""
        return self._running is not None and self._job_id == job.id

    def stop_unless(self, open_job_ids: set[str]) -> None:
        """End the validation of a job that was cancelled meanwhile."""
        if self._job_id not in open_job_ids:
            self.close()

    def close(self) -> str:
        """End the running validation, if there is one; returns the id of its job, or an empty text."""
        if self._running is None:
            return ""
        self._running.stop()
        self._running = None
        return self._job_id
