"""The thread that carries the jobs of a gateway from the check of their files to their end at the provider.

What it knows is in the server's database and in the gateway's registry with its journal, so a new server continues
where the old one was killed, and no job is created twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ftpipe.errors import FtpipeError, StillRunningError
from ftpipe.gateway.upstream_jobs import JobLimits, UpstreamJobs
from ftpipe.providers.provider import Provider
from ftpipe.records.job import TERMINAL_STATUSES
from ftpipe.registry import Registry
from ftpipe.server.jobs.supervisor_thread import ERROR_BACKOFF_SECONDS, SupervisorThread
from ftpipe.server.jobs.transitions import Observation, StartValidation, Wait, decide
from ftpipe.server.jobs.validation_process import FileValidator
from ftpipe.server.jobs.validation_process import StartValidation as StartCheck
from ftpipe.server.settings import ServeSettings
from ftpipe.server.storage import JobRow, Store
from ftpipe.server.storage.data_dir import DataDirectory

log = logging.getLogger("ftpipe.server.gateway")

MAX_CONCURRENT_CREATIONS = 4
"""Jobs whose files are uploaded at the same time."""
POLL_GROWTH = 1.3
"""Each wait between two readings of a job is so many times as long as the one before."""
MAX_BACKOFF_SECONDS = 120.0
STOP_SECONDS = 5.0
"""How long uploads may go on when the server stops; they continue at its next start."""


class UpstreamSupervisor(SupervisorThread):
    """Creates and polls jobs at a provider.

    Args:
        store: The server's database.
        data_dir: The server's folder.
        settings: Limits, and the provider's name.
        registry: The gateway's own registry; closed in the end.
        open_provider: Opens the provider; each thread has its own.
        limits: What jobs may cost.
        key: The provider's key, which no message may show.
        start_validation: Starts the check of a job's files.
    """

    def __init__(
        self,
        store: Store,
        data_dir: DataDirectory,
        settings: ServeSettings,
        *,
        registry: Registry,
        open_provider: Callable[[], Provider],
        limits: JobLimits,
        key: str,
        start_validation: StartCheck,
    ) -> None:
        super().__init__("upstream-supervisor", store, data_dir, settings, FileValidator(start_validation))
        self._registry = registry
        self._open_provider = open_provider
        self._jobs = UpstreamJobs(store, data_dir, registry, limits, key=key, sleep=self._sleep)
        self._provider: Provider | None = None
        self._creations: dict[str, threading.Thread] = {}
        self._wait_until: dict[str, float] = {}
        self._intervals: dict[str, float] = {}

    def stop(self) -> None:
        """End the threads; jobs continue at the provider, and are read again at the next start."""
        super().stop()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._creations.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._provider is not None:
            self._provider.close()
        self._registry.close()

    def _sleep(self, seconds: float) -> None:
        if self._stop_event.wait(seconds):
            raise StillRunningError("the server is stopping", "the job continues at its next start")

    def _poll_jobs(self) -> bool:
        with self._store.read() as tx:
            jobs = [job for job in tx.jobs.open() if job.upstream == self._settings.upstream]
        self._creations = {job_id: thread for job_id, thread in self._creations.items() if thread.is_alive()}
        self._validator.stop_unless({job.id for job in jobs if job.status == "validating_files" and not job.validated})
        for job in jobs:
            if time.monotonic() < self._wait_until.get(job.id, 0.0) or job.id in self._creations:
                continue
            self._attempt(job, self._step)
        return bool(jobs)

    def _step(self, job: JobRow) -> None:
        if job.status in TERMINAL_STATUSES:
            self._jobs.cancel(job, self._own_provider())
        elif not job.validated:
            self._check_files(job)
        elif not self._jobs.is_created(job):
            self._start_creation(job)
        else:
            self._jobs.poll(job, self._own_provider())
            profile = self._own_provider().profile
            interval = min(self._intervals.get(job.id, profile.poll_first_seconds), profile.poll_max_seconds)
            self._intervals[job.id] = interval * POLL_GROWTH
            self._wait_until[job.id] = time.monotonic() + interval

    def _check_files(self, job: JobRow) -> None:
        if not self._data_dir.job(job.id).path.is_dir():
            observed = Observation(directory_exists=False)
        else:
            observed = self._observe_validation(job)
        transition = decide(job, observed)
        if isinstance(transition, Wait):
            return
        is_written = self._writer.apply(job, transition)
        if is_written and isinstance(transition, StartValidation):
            self._validator.start(job, self._data_dir.job(job.id))

    def _start_creation(self, job: JobRow) -> None:
        if len(self._creations) >= MAX_CONCURRENT_CREATIONS:
            return
        thread = threading.Thread(target=self._create, args=(job,), name=f"create-{job.id}", daemon=True)
        self._creations[job.id] = thread
        thread.start()

    def _create(self, job: JobRow) -> None:
        def create(job: JobRow) -> None:
            provider = self._open_provider()
            try:
                self._jobs.create(job, provider)
            finally:
                provider.close()

        self._attempt(job, create)
        self.wake()

    def _attempt(self, job: JobRow, step: Callable[[JobRow], None]) -> None:
        """Do a step; after an error the job is left alone for a while, each time longer."""
        try:
            step(job)
        except (FtpipeError, OSError) as exc:
            if self._stop_event.is_set():
                return
            interval = self._intervals.get(job.id, ERROR_BACKOFF_SECONDS)
            self._intervals[job.id] = min(interval * 2, MAX_BACKOFF_SECONDS)
            self._wait_until[job.id] = time.monotonic() + interval
            log.error("job %s: error, trying again in %.0f s: %s", job.id, interval, exc)

    def _own_provider(self) -> Provider:
        self._provider = self._provider or self._open_provider()
        return self._provider
