"""Reads the jobs that run from their endpoints while the pages are open, and registers their models."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from ftpipe.errors import ConnectionFailedError, FtpipeError
from ftpipe.pipeline.pipeline import Pipeline
from ftpipe.providers.provider import Provider
from ftpipe.records import Run, RunState
from ftpipe.registry import Registry

log = logging.getLogger("ftpipe.ui")

SHOWN_SECONDS = {True: 1.0, False: 5.0}
"""How often the job of a page that is open is read, at the embedded server and at hosts."""
OPEN_SECONDS = 30.0
"""How often every other job that has not ended is read."""
TICK_SECONDS = 0.5
MAX_OPEN_RUNS = 100
"""Runs without an end that are read; the newest count."""


class Opener(Protocol):
    """Opens providers."""

    def open(self, name: str, *, start: bool = False) -> Provider:
        """Open a provider."""

    def forget(self, name: str) -> None:
        """Close it after an error."""


class JobWatcher:
    """A thread that reads jobs; it never creates, starts or changes one.

    Args:
        registry: Where jobs, events and models are saved.
        endpoints: Opens providers.
        clock: Monotonic seconds.
    """

    def __init__(self, registry: Registry, endpoints: Opener, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._endpoints = endpoints
        self._clock = clock
        self._shown: Counter[str] = Counter()
        self._errors: dict[str, FtpipeError] = {}
        self._read_at: dict[str, float] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._work, name="job-watcher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=OPEN_SECONDS)

    @contextmanager
    def shown(self, run_id: str) -> Iterator[None]:
        """Read the job of a run often while a page shows it."""
        with self._lock:
            self._shown[run_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._shown[run_id] -= 1

    def error(self, run_id: str) -> FtpipeError | None:
        """Why a job could not be read the last time; ``None`` if it could."""
        with self._lock:
            return self._errors.get(run_id)

    def read(self, run: Run) -> Run:
        """Read the job of a run now; if it has succeeded, its model is registered.

        Raises:
            FtpipeError: The endpoint does not answer, or is not the one that has the job.
        """
        if run.job is None or run.state != RunState.CREATED:
            return run
        try:
            provider = self._endpoints.open(run.spec.provider)
            refuse_other_endpoint(run, provider)
            run = Pipeline(provider=provider, registry=self._registry).refresh(run)
        except FtpipeError as error:
            if isinstance(error, ConnectionFailedError):
                self._endpoints.forget(run.spec.provider)
            with self._lock:
                self._errors[run.id] = error
            raise
        with self._lock:
            self._errors.pop(run.id, None)
        return run

    def read_due(self) -> None:
        """Read every job whose time has come."""
        now = self._clock()
        for run in self._registry.runs.open(limit=MAX_OPEN_RUNS):
            if self._stopping.is_set():
                return
            with self._lock:
                is_shown = self._shown[run.id] > 0
            seconds = SHOWN_SECONDS[run.endpoint.startswith("local:")] if is_shown else OPEN_SECONDS
            if now - self._read_at.get(run.id, -OPEN_SECONDS) < seconds:
                continue
            try:
                self.read(run)
            except FtpipeError as error:
                log.debug("%s could not be read: %s", run.id, error)
            self._read_at[run.id] = self._clock()

    def _work(self) -> None:
        while not self._stopping.wait(TICK_SECONDS):
            try:
                self.read_due()
            except FtpipeError as error:  # the registry is locked or damaged; the pages say so
                log.warning("the open runs cannot be read: %s", error)
                self._stopping.wait(OPEN_SECONDS)


def refuse_other_endpoint(run: Run, provider: Provider) -> None:
    """Refuse to read or change a job of the same id at another endpoint.

    Raises:
        FtpipeError: The provider leads to another endpoint now.
    """
    if provider.endpoint != run.endpoint:
        raise FtpipeError(
            f"{run.id} is at {run.endpoint}, and {provider.profile.name} now leads to {provider.endpoint}",
            "use the address with which it was started",
        )
