"""The thread that owns a base model: requests of all other threads are computed in it, in one batch."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from ftpipe.inference.generation import Generation
from ftpipe.inference.scheduler import Scheduler

IDLE_SECONDS = 10.0
"""How long the thread waits for another request before it ends; the next one starts it again."""
JOIN_SECONDS = 0.03
"""How long an idle thread waits with a request for others that are being tokenized: about as long as one more step."""


class ModelThread:
    """Runs a scheduler as long as there are answers to compute.

    Args:
        scheduler: Used by the thread alone.
        idle_seconds: How long it waits for another request before it ends.
        join_seconds: How long it waits at first for requests that are being tokenized.
    """

    def __init__(
        self, scheduler: Scheduler, *, idle_seconds: float = IDLE_SECONDS, join_seconds: float = JOIN_SECONDS
    ) -> None:
        self._scheduler = scheduler
        self._idle_seconds = idle_seconds
        self._join_seconds = join_seconds
        self._condition = threading.Condition()
        self._new: deque[Generation] = deque()
        self._expected = 0
        self._thread: threading.Thread | None = None
        self._is_closed = False

    @property
    def running(self) -> int:
        """Answers that are computed."""
        return self._scheduler.running

    @property
    def waiting(self) -> int:
        """Answers that are not computed yet."""
        return len(self._new) + self._scheduler.waiting

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """While a request is tokenized, so that requests that arrive together are computed together."""
        with self._condition:
            self._expected += 1
        try:
            yield
        finally:
            with self._condition:
                self._expected -= 1
                self._condition.notify()

    def submit(self, generation: Generation) -> None:
        """Compute an answer."""
        with self._condition:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="generate", daemon=True)
                thread.start()  # an error if the system has no more threads; then nothing was submitted
                self._thread = thread
            self._new.append(generation)
            self._condition.notify()

    def close(self) -> None:
        """Let the thread end, and with it the model's memory, once the answers that were requested are complete."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()

    def _run(self) -> None:
        scheduler = self._scheduler
        try:
            while self._wait():
                try:
                    scheduler.step()
                except Exception as exc:  # noqa: BLE001  # whoever waits must not wait for ever
                    scheduler.fail_all(exc)
        finally:
            with self._condition:
                if self._thread is threading.current_thread():  # an error that nothing has handled
                    self._thread = None
                    while self._new:
                        scheduler.add(self._new.popleft())
                    scheduler.fail_all(RuntimeError("the thread that computes answers has ended"))

    def _wait(self) -> bool:
        """Wait until there is something to compute; false if the thread should end."""
        scheduler = self._scheduler
        with self._condition:
            if not scheduler.running and not scheduler.waiting:
                self._condition.wait_for(lambda: self._new or self._is_closed, self._idle_seconds)
                if not self._new:
                    self._thread = None
                    return False
                self._condition.wait_for(lambda: not self._expected, self._join_seconds)
            while self._new:
                scheduler.add(self._new.popleft())
        return True
