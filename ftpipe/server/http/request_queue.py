"""A bounded queue in front of expensive requests: limited in number and in waiting time, and fair to every owner."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ftpipe.server.protocol import ApiError


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Limits of a queue.

    Attributes:
        max_running: Requests that are computed at the same time.
        max_waiting: Requests that wait for one of those to end; more are refused.
        max_wait_seconds: How long a request may wait.
        max_running_per_owner: Requests of one owner that are computed at the same time.
        max_waiting_per_owner: Requests of one owner that wait.
    """

    max_running: int
    max_waiting: int
    max_wait_seconds: float
    max_running_per_owner: int
    max_waiting_per_owner: int


@dataclass(slots=True, eq=False)
class Slot:
    """The right to be computed; must be released."""

    queue: RequestQueue
    owner: str
    _is_released: bool = field(default=False, init=False)

    def release(self) -> None:
        """Let the next request in; the second time changes nothing."""
        if not self._is_released:
            self._is_released = True
            self.queue.on_release(self.owner)


class RequestQueue:
    """Admits requests in turn; only used in the thread of the event loop.

    Owners take turns, so that many requests of one do not delay those of another.

    Args:
        limits: How many run and wait.
    """

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._running: Counter[str] = Counter()
        self._waiting_elsewhere: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def running(self) -> int:
        """Requests that have a slot."""
        return self._running.total()

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot, or for what they need before."""
        # A copy, because a thread asks for the metrics.
        return self._waiting_elsewhere.total() + sum(len(futures) for futures in list(self._waiting.values()))

    @contextmanager
    def waiting_elsewhere(self, owner: str) -> Iterator[None]:
        """Count a request that waits for something else before it needs a slot.

        Raises:
            ApiError: 429 if too many requests wait.
        """
        self.refuse_if_full(owner)
        self._waiting_elsewhere[owner] += 1
        try:
            yield
        finally:
            self._waiting_elsewhere[owner] -= 1
            if not self._waiting_elsewhere[owner]:
                del self._waiting_elsewhere[owner]

    async def acquire(self, owner: str) -> Slot:
        """Wait for a slot.

        Raises:
            ApiError: 429 if too many requests wait, or this one waited too long.
        """
        if owner not in self._waiting and self.has_slot(owner):
            self._running[owner] += 1
            return Slot(self, owner)
        self.refuse_if_full(owner)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(future)
        try:
            async with asyncio.timeout(self._limits.max_wait_seconds):
                await future
        except BaseException as exc:
            self._remove(owner, future)
            if isinstance(exc, TimeoutError):
                message = (
                    f"The server is busy: the request waited {self._limits.max_wait_seconds:g} s. Try again later."
                )
                raise _rate_limited(message) from exc
            raise
        return Slot(self, owner)

    def on_release(self, owner: str) -> None:
        """Give the slots that are free to waiting requests; called by ``Slot.release``."""
        self._running[owner] -= 1
        if not self._running[owner]:
            del self._running[owner]
        self._admit()

    def refuse_if_full(self, owner: str) -> None:
        """Raise an error if a request of an owner could not wait.

        Raises:
            ApiError: 429 if too many requests wait.
        """
        if self.waiting >= self._limits.max_waiting:
            message = f"The server is busy: {self._limits.max_waiting} requests are waiting already. Try again later."
            raise _rate_limited(message)
        limit = self._limits.max_waiting_per_owner
        if self._waiting_elsewhere[owner] + len(self._waiting.get(owner, ())) >= limit:
            raise _rate_limited(f"{limit} requests with this API key are waiting already. Try again later.")

    def has_slot(self, owner: str) -> bool:
        """Whether a slot is free that the owner may take."""
        return self.running < self._limits.max_running and self._running[owner] < self._limits.max_running_per_owner

    def _admit(self) -> None:
        """Let in the owner who was let in longest ago, as long as a slot is free."""
        while (owner := next((name for name in self._waiting if self.has_slot(name)), None)) is not None:
            futures = self._waiting[owner]
            future = futures.popleft()
            if futures:
                self._waiting.move_to_end(owner)
            else:
                del self._waiting[owner]
            if not future.done():
                self._running[owner] += 1
                future.set_result(None)

    def _remove(self, owner: str, future: asyncio.Future[None]) -> None:
        """Remove a request that does not wait any more; a slot that it got in this moment goes to the next one."""
        if future.done() and not future.cancelled():
            self.on_release(owner)
            return
        futures = self._waiting.get(owner, deque())
        if future in futures:
            futures.remove(future)
        if not futures:
            self._waiting.pop(owner, None)


def _rate_limited(message: str) -> ApiError:
    return ApiError(429, message, "rate_limit_exceeded", None, "requests")
