"""A lock that owners get in turn, so that many requests of one do not slow down those of another."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager


class FairLock:
    """Held by one thread at a time; the owner who had it longest ago is next.

    ``threading.Lock`` has no order: with one of its threads per request, an owner's share grows with its requests.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_held = False
        self._waiting: OrderedDict[str, deque[threading.Event]] = OrderedDict()

    @contextmanager
    def turn(self, owner: str) -> Iterator[None]:
        """Hold the lock once it is the owner's turn."""
        event: threading.Event | None = None
        with self._lock:
            if self._is_held:
                event = threading.Event()
                self._waiting.setdefault(owner, deque()).append(event)
            self._is_held = True
        if event is not None:
            event.wait()
        try:
            yield
        finally:
            self._pass_on()

    @property
    def waiting(self) -> int:
        """Threads that wait for their turn."""
        with self._lock:
            return sum(len(events) for events in self._waiting.values())

    def _pass_on(self) -> None:
        with self._lock:
            if not self._waiting:
                self._is_held = False
                return
            owner, events = next(iter(self._waiting.items()))
            event = events.popleft()
            if events:
                self._waiting.move_to_end(owner)
            else:
                del self._waiting[owner]
        event.set()
