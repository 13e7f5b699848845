"""Remembers when the inference process crashed and what it was doing, so that nothing crashes it again and again."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ftpipe.errors import FtpipeError

MAX_CRASHES_OF_REQUEST = 2
"""After so many crashes while it was computed, a request is refused."""
FORGET_SECONDS = 600.0
"""How long it is refused; it may be another request that crashes the process."""
MAX_REMEMBERED_REQUESTS = 1000
MAX_CRASHES = 3
"""In ``CRASH_WINDOW_SECONDS``; after them no process is started until the first one is so long ago."""
CRASH_WINDOW_SECONDS = 60.0


class RepeatedCrashError(FtpipeError):
    """The inference process has crashed too often to be started again for this request."""

    code = "inference_crashed"


@dataclass(slots=True)
class _Crashes:
    count: int
    last_at: float


class CrashHistory:
    """The crashes of the last minutes; can be used from several threads.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._recent: deque[float] = deque(maxlen=MAX_CRASHES)
        self._by_request: OrderedDict[bytes, _Crashes] = OrderedDict()

    def add(self, requests: Iterable[bytes]) -> None:
        """Remember a crash, and what was computed."""
        with self._lock:
            now = self._clock()
            self._recent.append(now)
            for key in map(_digest, requests):
                crashes = self._by_request.setdefault(key, _Crashes(0, now))
                crashes.count, crashes.last_at = crashes.count + 1, now
                self._by_request.move_to_end(key)
            while len(self._by_request) > MAX_REMEMBERED_REQUESTS:
                self._by_request.popitem(last=False)

    def check_start(self) -> None:
        """Check that a process may be started.

        Raises:
            RepeatedCrashError: Too many have crashed within a short time.
        """
        with self._lock:
            if len(self._recent) < MAX_CRASHES:
                return
            wait = self._recent[0] + CRASH_WINDOW_SECONDS - self._clock()
        if wait > 0:
            message = f"the inference process has crashed {MAX_CRASHES} times within {CRASH_WINDOW_SECONDS:.0f} seconds"
            error = RepeatedCrashError(message, "see `ftpipe serve logs`")
            error.retry_after = float(math.ceil(wait))
            raise error

    def check_request(self, request: Callable[[], bytes]) -> None:
        """Check that the process did not crash while this request was computed, several times.

        Raises:
            RepeatedCrashError: It did.
        """
        if not self._by_request:
            return
        key = _digest(request())
        with self._lock:
            crashes = self._by_request.get(key)
            if crashes is not None and crashes.last_at + FORGET_SECONDS < self._clock():
                del self._by_request[key]
                crashes = None
        if crashes is not None and crashes.count >= MAX_CRASHES_OF_REQUEST:
            message = f"the inference process has crashed {crashes.count} times while it worked on this request"
            error = RepeatedCrashError(message, "see `ftpipe serve logs`")
            error.retry_after = FORGET_SECONDS
            raise error

    def forget_request(self, request: Callable[[], bytes]) -> None:
        """This request was answered, so it was another one that crashed the process."""
        if self._by_request:
            with self._lock:
                self._by_request.pop(_digest(request()), None)


def _digest(request: bytes) -> bytes:
    return hashlib.sha256(request).digest()
