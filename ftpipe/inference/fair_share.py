"""How much of a model each owner has used: the one who used least is next."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from ftpipe.inference.request import Priority

HALF_LIFE_SECONDS = 10.0
"""Time after which what an owner used counts half as much."""
BATCH_WEIGHT = 4.0
"""How much more a second counts that was used for work that can wait."""

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

    def add(self, account: Account, seconds: float) -> None:
        """Count seconds of the model."""
        self._used[account] = (self.used(account) + weighted(account, seconds), self._clock())


def weighted(account: Account, seconds: float) -> float:
    """What seconds of the model count for an account."""
    return seconds * (BATCH_WEIGHT if account[1] == "batch" else 1.0)
