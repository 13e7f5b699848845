"""How much of a model each owner has used: the one who used least is next."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TypeAlias

from ftpipe.inference.request import Priority

HALF_LIFE_SECONDS = 10.0
"""Time after which what an owner used counts half as much."""
BATCH_WEIGHT = 4.0
"""How much more a second counts that was used for work that can wait."""
MAX_RATIO = 1.1
"""An account is a light one if it used at most so many times what the one that used least has used.

With 2, two answers without pause beside 30 of another owner took 2.5 times as long as alone."""
MIN_HEAVY_SECONDS = 0.1
"""An account that used less is a light one in any case."""
TIME_SMOOTHING = 0.1
"""How much the time of the last step counts in the average of steps of its size."""

Account: TypeAlias = tuple[str, Priority]
"""An owner's work of one priority."""


class FairShare:
    """Seconds that each account had the model for, of which half are forgotten with every ``HALF_LIFE_SECONDS``.

    An owner's share must not grow with the number of their requests. With plain turns, an owner with one short answer
    would wait for a step of each other owner before each step of their own, and without forgetting, an owner who was
    alone for an hour would wait for an hour when another one comes.
    Source: Slurm, priority multifactor plugin, "half-life decay", https://slurm.schedmd.com/priority_multifactor.html,
    2026-11-28.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._used: dict[Account, tuple[float, float]] = {}

    def used(self, account: Account) -> float:
        """Weighted seconds of an account."""
        seconds, counted_at = self._used.get(account, (0.0, 0.0))
        return seconds * float(0.5 ** ((self._clock() - counted_at) / HALF_LIFE_SECONDS))

    def light(self, accounts: Collection[Account]) -> set[Account]:
        """Those of some accounts that used little, compared to the one that used least."""
        used = {account: self.used(account) for account in accounts}
        limit = max(MIN_HEAVY_SECONDS, MAX_RATIO * min(used.values(), default=0.0))
        return {account for account, seconds in used.items() if seconds <= limit}

    def add(self, account: Account, seconds: float) -> None:
        """Count seconds of the model."""
        self._used[account] = (self.used(account) + weighted(account, seconds), self._clock())


def weighted(account: Account, seconds: float) -> float:
    """What seconds of the model count for an account."""
    return seconds * (BATCH_WEIGHT if account[1] == "batch" else 1.0)


class TimeAllowance:
    """How much time heavy accounts may add to the steps of light ones; it grows with the time of the latter.

    It is saved for a step before that step, so that the next short answer does not pay for the last one.

    Args:
        share: Of the time of light accounts.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._seconds = 0.0
        self._cost = 0.0

    @property
    def is_used_up(self) -> bool:
        """Whether heavy accounts have to wait."""
        return self._seconds < self._cost

    def earn(self, seconds: float) -> None:
        """Light accounts had the model for some seconds; no more is saved than one step of others costs."""
        self._seconds = min(self._seconds + self._share * seconds, self._cost)

    def spend(self, seconds: float) -> None:
        """Heavy accounts lengthened a step."""
        self._seconds -= seconds
        self._cost = (self._cost + seconds) / 2


class DecodeTimes:
    """How long a step takes with so many sequences, on average; numbers of about the same size are one."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def add(self, sequences: int, seconds: float) -> None:
        """A step took so long."""
        before = self._seconds.get(sequences.bit_length(), seconds)
        self._seconds[sequences.bit_length()] = before + TIME_SMOOTHING * (seconds - before)

    def expected(self, sequences: int) -> float | None:
        """How long a step will take; ``None`` if there was none of this size."""
        return 0.0 if not sequences else self._seconds.get(sequences.bit_length())
