"""Poll: from a job to its end, with its events as they come; trouble on the network is not trouble of the job."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

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

STALE_SECONDS = 1800.0
"""Silence after which ftpipe says that the job waits; queues of hours happen."""
MAX_PAUSE_SECONDS = 600.0
"""The longest pause between two looks, whatever the endpoint asks for."""
TRANSIENT_ERRORS = (ConnectionFailedError, RateLimitError, InvalidResponseError)


def poll(
    job: Job,
    *,
    provider: Provider,
    known_events: Iterable[str] = (),
    timeout: float | None = None,
    on_job: Callable[[Job], None] = lambda _job: None,
    on_events: Callable[[list[Event]], None] = lambda _events: None,
    on_status: Callable[[str], None] = lambda _text: None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Job:
    """Look at a job until it has finished.

    Args:
        job: The job as it was last seen.
        provider: Its endpoint.
        known_events: Ids of events that ``on_events`` has heard before.
        timeout: Seconds of wall-clock time to wait at most; ``None`` waits until the end.
        on_job: Hears the job after each look.
        on_events: Hears new events, oldest first.
        on_status: Hears what a person should know.
        sleep: Waits.
        clock: Monotonic seconds.

    Returns:
        The job in a status that does not change any more; a status that ftpipe does not know never counts as one.

    Raises:
        StillRunningError: The time is up.
        AuthenticationError: The key was refused; the job goes on.
        NotFoundError: The endpoint does not know the job any more.
    """
    profile = provider.profile
    watch = _JobPoller(job, provider, set(known_events), on_job, on_events, on_status, clock)
    deadline = clock() + timeout if timeout is not None else math.inf
    finished = poll_until(
        watch.look,
        is_done=lambda job: job.is_finished,
        retry_on=_is_network,
        seconds_left=lambda: deadline - clock(),
        first_wait=profile.poll_first_seconds,
        max_wait=profile.poll_max_seconds,
        max_pause=MAX_PAUSE_SECONDS,
        sleep=sleep,
        on_retry=watch.report_error,
    )
    if finished is None:
        raise StillRunningError(
            f"{job.id} is {watch.job.status} after {timeout:.0f} seconds of waiting",
            f"it goes on: `ftpipe status {job.id}` looks again, `ftpipe resume` waits on",
        )
    return finished


class _JobPoller:
    """What is remembered between two looks."""

    def __init__(
        self,
        job: Job,
        provider: Provider,
        known: set[str],
        on_job: Callable[[Job], None],
        on_events: Callable[[list[Event]], None],
        on_status: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self.job = job
        self._provider = provider
        self._known = known
        self._on_job = on_job
        self._on_events = on_events
        self._on_notice = on_status
        self._clock = clock
        self._heard_at = clock()
        self._trouble = ""

    def look(self) -> Job:
        """One look at the job and its events."""
        fresh = self._provider.jobs.get(self.job.id)
        kept = {"asked": self.job.asked, "method": self.job.method, "suffix": fresh.suffix or self.job.suffix}
        self.job = fresh.model_copy(update=kept)
        events = self._events()
        self._known.update(event.id for event in events)
        if events:
            self._heard_at = self._clock()
            self._on_events(events)
        elif self._clock() - self._heard_at > STALE_SECONDS and not self.job.is_finished:
            self._heard_at = self._clock()
            self._on_notice(
                f"no news of {self.job.id} for {STALE_SECONDS / 60:.0f} minutes (it is {self.job.status}); "
                "queues of hours happen, and waiting costs nothing"
            )
        if self._trouble:
            self._trouble = ""
            self._on_notice("the endpoint answers again")
        self._on_job(self.job)
        return self.job

    def _events(self) -> list[Event]:
        try:
            return self._provider.jobs.events(self.job.id, known=self._known)
        except NotFoundError:
            return []  # some hosts have jobs without an event list

    def report_error(self, error: BaseException) -> None:
        """Report an error once, and what it means for the job."""
        if isinstance(error, FtpipeError) and not self._trouble:
            self._trouble = error.message
            self._on_notice(f"{error.message}; the job goes on there, and ftpipe keeps looking")


def _is_network(exc: BaseException) -> bool:
    return isinstance(exc, TRANSIENT_ERRORS) or type(exc) is ProviderError
