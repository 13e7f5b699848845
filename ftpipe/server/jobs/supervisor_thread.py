"""What the supervisors of local jobs and of jobs at a provider share: a thread that polls until the server stops."""

from __future__ import annotations

import logging
import threading
import time
from abc import abstractmethod

from ftpipe.errors import FtpipeError
from ftpipe.server.jobs.transitions import Observation, TransitionWriter
from ftpipe.server.jobs.validation_process import FileValidator
from ftpipe.server.settings import ServeSettings
from ftpipe.server.storage import JobRow, Store
from ftpipe.server.storage.cleanup import delete_expired
from ftpipe.server.storage.data_dir import DataDirectory

log = logging.getLogger("ftpipe.server.jobs")

CLEANUP_INTERVAL_SECONDS = 60.0
ERROR_BACKOFF_SECONDS = 5.0
"""How long a job is left alone after an error."""


class SupervisorThread(threading.Thread):
    """Moves jobs on, and deletes what has expired.

    Args:
        name: The thread's name.
        store: The server's database.
        data_dir: The server's directory.
        settings: Limits of the server.
        validator: Validates the files of jobs.
    """

    def __init__(
        self, name: str, store: Store, data_dir: DataDirectory, settings: ServeSettings, validator: FileValidator
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._store = store
        self._data_dir = data_dir
        self._settings = settings
        self._validator = validator
        self._writer = TransitionWriter(store, data_dir)
        self._wake_event = threading.Event()
        self._stop_event = threading.Event()
        self._last_cleanup = 0.0

    def wake(self) -> None:
        """Poll the jobs now instead of after the interval."""
        self._wake_event.set()

    def run(self) -> None:
        """Poll until ``stop``."""
        while not self._stop_event.is_set():
            self._wake_event.clear()
            has_open_jobs = self._poll_safely()
            # Without open jobs there is nothing to watch: only a wake or the cleanup is waited for.
            self._wake_event.wait(self._settings.poll_interval if has_open_jobs else CLEANUP_INTERVAL_SECONDS)

    def stop(self) -> None:
        """End the thread and the running validation, which starts again at the next start."""
        self._stop_event.set()
        self._wake_event.set()
        if self.is_alive():
            self.join()
        if validated_job_id := self._validator.close():
            self._writer.forget_validation_attempt(validated_job_id)

    def poll(self) -> bool:
        """Move every open job one step on.

        Returns:
            True if there is an open job.
        """
        if time.monotonic() - self._last_cleanup > CLEANUP_INTERVAL_SECONDS:
            self._last_cleanup = time.monotonic()
            delete_expired(self._store, self._data_dir)
        return self._poll_jobs()

    @abstractmethod
    def _poll_jobs(self) -> bool:
        """Move every open job one step on; true if there is one."""

    def _observe_validation(self, job: JobRow) -> Observation:
        """How the validation of a job's files goes on."""
        validation = self._validator.poll(job)
        running, free = self._validator.is_running(job), self._validator.is_free
        return Observation(validation=validation, validation_running=running, validator_free=free)

    def _poll_safely(self) -> bool:
        try:
            return self.poll()
        except FtpipeError as exc:
            # For example a full disk: the jobs stay as they are until the next poll.
            log.error("the supervisor could not continue and will try again: %s", exc)
            return True
