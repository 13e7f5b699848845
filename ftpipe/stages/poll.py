"""Poll a job until it ends, with its events; a network error is not an error of the job."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ftpipe.errors import (
    ConnectionFailedError,
    FtpipeError,
    InvalidResponseError,
    NotFoundError,
    ProviderError,
    RateLimitError,
    StillRunningError,
)
from ftpipe.providers.provider import Provider
from ftpipe.providers.retry import poll_until
from ftpipe.records import Event, Job
from ftpipe.registry.jobs import metrics_of

STALE_SECONDS = 1800.0
"""After so long without events ftpipe says that the job is waiting; queues can last for hours."""
MAX_PAUSE_SECONDS = 600.0
"""The longest pause between two requests, even if the endpoint asks for more."""
QUEUED_READS = 2
"""After so many readings in a row with the status ``queued``, ftpipe says what the job waits for."""
TRANSIENT_ERRORS = (ConnectionFailedError, RateLimitError, InvalidResponseError)


@dataclass
class PollJob:
    """Polls a job until it has finished."""

    job: Job
    """The job as it was last read."""
    provider: Provider
    known_events: Iterable[str] = ()
    """Ids of events for which ``on_events`` was called before."""
    timeout: float | None = None
    """Seconds of wall-clock time to wait at most; ``None`` waits until the end."""
    on_job: Callable[[Job], None] = lambda _job: None
    """Is called with the job each time it was read."""
    on_events: Callable[[list[Event]], None] = lambda _events: None
    """Is called with new events, oldest first."""
    on_status: Callable[[str], None] = lambda _text: None
    """Is called with what the user should know."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    """Monotonic seconds."""

    def __post_init__(self) -> None:
        self._known = set(self.known_events)
        self._last_event_at = self.clock()
        self._last_error = ""
        self._queued_reads = 0

    def run(self) -> Job:
        """Poll until the status does not change any more; an unknown status never counts as final.

        Raises:
            StillRunningError: The time is up.
            AuthenticationError: The key was refused; the job continues.
            NotFoundError: The endpoint does not know the job any more.
        """
        profile = self.provider.profile
        deadline = self.clock() + self.timeout if self.timeout is not None else math.inf
        try:
            finished = poll_until(
                self._poll_once,
                is_done=lambda job: job.is_finished,
                retry_on=_is_network_error,
                seconds_left=lambda: deadline - self.clock(),
                first_wait=profile.poll_first_seconds,
                max_wait=profile.poll_max_seconds,
                max_pause=MAX_PAUSE_SECONDS,
                sleep=self.sleep,
                on_retry=self._report_error,
            )
        except StillRunningError:  # the time was up during a call
            finished = None
        if finished is None:
            raise StillRunningError(
                f"{self.job.id} is {self.job.status} after {self.timeout or 0:.0f} seconds of waiting",
                f"it continues: `ftpipe status {self.job.id}` shows it, `ftpipe resume` waits for its end",
            )
        return finished

    def _poll_once(self) -> Job:
        current = self.provider.jobs.get(self.job.id)
        self.job = current.model_copy(
            update={
                "requested": self.job.requested,
                "method": self.job.method,
                "suffix": current.suffix or self.job.suffix,
            }
        )
        events = self._new_events()
        self._known.update(event.id for event in events)
        now = self.clock()
        if events:
            self._last_event_at = now
            self.on_events(events)
        elif now - self._last_event_at > STALE_SECONDS and not self.job.is_finished:
            self._last_event_at = now
            self.on_status(
                f"no news of {self.job.id} for {STALE_SECONDS / 60:.0f} minutes (it is {self.job.status}); "
                "queues can last for hours, and waiting costs nothing"
            )
        if self._last_error:
            self._last_error = ""
            self.on_status("the endpoint answers again")
        self.on_job(self.job)
        self._report_queue()
        return self.job

    def _report_queue(self) -> None:
        """Say once which job a queued one waits for; on a user's own machine that is another job of the user.

        It is said when the job is read as queued for the second time: for a moment each job is.
        """
        self._queued_reads = self._queued_reads + 1 if self.job.status == "queued" else 0
        if self._queued_reads != QUEUED_READS or self.provider.profile.target != "local":
            return
        try:
            running = next((job for job in self.provider.jobs.recent() if job.status == "running"), None)
            metrics = metrics_of(self.provider.jobs.events(running.id)) if running else []
        except FtpipeError:
            return  # polling goes on, and reports errors
        if running is None or running.id == self.job.id:
            return
        last = metrics[-1] if metrics else None
        step = f" (step {last.step} of {last.total_steps})" if last and last.total_steps else ""
        self.on_status(f"{self.job.id} is queued and waits for {running.id}{step}")

    def _new_events(self) -> list[Event]:
        try:
            return self.provider.jobs.events(self.job.id, known=self._known)
        except NotFoundError:
            return []  # some hosts have jobs without an event list

    def _report_error(self, error: BaseException) -> None:
        """Report the first of several errors in a row, and what it means for the job."""
        if isinstance(error, FtpipeError) and not self._last_error:
            self._last_error = error.message
            self.on_status(f"{error.message}; the job continues there, and ftpipe keeps polling")


def _is_network_error(exc: BaseException) -> bool:
    return isinstance(exc, TRANSIENT_ERRORS) or type(exc) is ProviderError
