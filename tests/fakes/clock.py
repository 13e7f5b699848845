"""A clock that moves only in ``sleep``."""

from __future__ import annotations


class Clock:
    """Time that passes only in ``sleep``; set ``now`` to make it jump."""

    def __init__(self, now: float = 1_795_000_000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        """UTC Unix seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move the time forward, and record the wait."""
        self.slept.append(seconds)
        self.now += seconds
