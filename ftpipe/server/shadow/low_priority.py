"""Let work that nobody waits for go on only while no caller waits for an answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ftpipe.server.cancellation import CancelToken


class CallerCount:
    """Counts the answers that are being computed for callers; can be used from several threads."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._number = 0

    @property
    def number(self) -> int:
        """Answers that are being computed for callers."""
        return self._number

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count one answer."""
        with self._condition:
            self._number += 1
        try:
            yield
        finally:
            with self._condition:
                self._number -= 1
                self._condition.notify_all()

    def wait_until_none(self, is_cancelled: Callable[[], bool]) -> None:
        """Wait until no answer is computed for a caller, or until ``is_cancelled``, which is read after ``wake``."""
        with self._condition:
            self._condition.wait_for(lambda: self._number == 0 or is_cancelled())

    def wake(self) -> None:
        """Let those who wait look again whether they were cancelled."""
        with self._condition:
            self._condition.notify_all()


class LowPriorityToken(CancelToken):
    """The token of work that waits, before each of its steps, until no caller waits for an answer.

    The engine looks at the token before each token that it computes, so a caller waits for one step at most.

    Attributes:
        waited_seconds: How long the work has waited so far.
    """

    def __init__(self, callers: CallerCount) -> None:
        super().__init__()
        self.waited_seconds = 0.0
        self._callers = callers
        self.on_cancel(callers.wake)

    def raise_if_cancelled(self) -> None:
        """Wait until no caller waits, then end the work if it was cancelled.

        Raises:
            RequestCancelledError: The work was cancelled.
        """
        if self._callers.number:
            started = time.perf_counter()
            self._callers.wait_until_none(lambda: self.is_cancelled)
            self.waited_seconds += time.perf_counter() - started
        super().raise_if_cancelled()
