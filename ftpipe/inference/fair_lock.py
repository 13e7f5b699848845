"""A lock for work that is done in many short steps, shared fairly by the owners of the work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

HALF_LIFE_SECONDS = 10.0
"""Time after which what an owner used counts half as much."""
GRACE_SECONDS = 0.01
"""How long an owner that used less than the others may take between two steps; sampling a token takes up to 5 ms."""


class FairLock:
    """Held by one thread at a time; of those that wait, a thread of the owner who had it for the least time is next.

    ``threading.Lock`` has no order: with one of its threads per request, an owner's share grows with its requests. With
    plain turns, an owner with one short answer waits for a step of each other owner before each step of its own. So the
    owner who used least comes first, and has it again for the next step if that begins within ``GRACE_SECONDS``, which
    count as use. What was used counts half as much with every ``HALF_LIFE_SECONDS``: an owner who was alone for an hour
    waits only for some seconds when another one comes.
    Source: Slurm, priority multifactor plugin, "half-life decay", https://slurm.schedmd.com/priority_multifactor.html;
    S. Iyer, P. Druschel, "Anticipatory scheduling", SOSP 2001; both 2026-11-28.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._is_held = False
        self._waiting: list[_Waiting] = []
        self._used: dict[str, _DecayingSeconds] = {}
        self._last_owner = ""
        self._released_at = -GRACE_SECONDS

    @contextmanager
    def turn(self, owner: str) -> Iterator[None]:
        """Hold the lock once it is the owner's turn."""
        with self._lock:
            self._acquire(_Waiting(owner, self._clock(), threading.Condition(self._lock)))
        started_at = self._clock()
        try:
            yield
        finally:
            with self._lock:
                self._release(owner, started_at)

    @property
    def waiting(self) -> int:
        """Threads that wait for their turn."""
        with self._lock:
            return len(self._waiting)

    def _acquire(self, me: _Waiting) -> None:
        self._waiting.append(me)
        try:
            while (seconds := self._seconds_to_wait(me)) != 0.0:
                me.condition.wait(seconds)
            waiting_since = min(waiting.since for waiting in self._waiting)
        finally:
            self._waiting.remove(me)
        idle = self._clock() - max(waiting_since, self._released_at)
        self._add_use(self._last_owner, min(idle, GRACE_SECONDS))
        self._is_held = True

    def _seconds_to_wait(self, me: _Waiting) -> float | None:
        """0 if the lock is free for a thread; ``None`` until it is notified."""
        now = self._clock()
        if self._is_held or self._next(now) is not me:
            return None
        if me.owner == self._last_owner or self._use_of(self._last_owner, now) >= self._use_of(me.owner, now):
            return 0.0
        return max(self._released_at + GRACE_SECONDS - now, 0.0)

    def _release(self, owner: str, started_at: float) -> None:
        self._add_use(owner, self._clock() - started_at)
        self._is_held, self._last_owner, self._released_at = False, owner, self._clock()
        if self._waiting:
            self._next(self._released_at).condition.notify()

    def _next(self, now: float) -> _Waiting:
        """Of equals the first, which is the one that has waited longest."""
        return min(self._waiting, key=lambda waiting: self._use_of(waiting.owner, now))

    def _add_use(self, owner: str, seconds: float) -> None:
        now = self._clock()
        self._used.setdefault(owner, _DecayingSeconds(now)).add(seconds, now)

    def _use_of(self, owner: str, now: float) -> float:
        return self._used[owner].at(now) if owner in self._used else 0.0


@dataclass(slots=True, eq=False)
class _Waiting:
    """A thread that waits."""

    owner: str
    since: float
    condition: threading.Condition


class _DecayingSeconds:
    """Seconds that an owner had the lock, with the weight that they have at a time."""

    def __init__(self, now: float) -> None:
        self._seconds = 0.0
        self._counted_at = now

    def at(self, now: float) -> float:
        """Their weight now."""
        return self._seconds * float(0.5 ** ((now - self._counted_at) / HALF_LIFE_SECONDS))

    def add(self, seconds: float, now: float) -> None:
        """Count some more."""
        self._seconds, self._counted_at = self.at(now) + seconds, now
