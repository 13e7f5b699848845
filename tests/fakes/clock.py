"""A clock that moves only when somebody sleeps."""

from __future__ import annotations


class Clock:
    """Time that passes in ``sleep`` alone."""

    def __init__(self, now: float = 1_795_000_000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        """UTC Unix seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.slept.append(seconds)
        self.now += seconds
