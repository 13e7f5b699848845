"""The owner who used the lock least is next, however many threads of others wait."""

from __future__ import annotations

import threading
import time

from ftpipe.inference.fair_lock import GRACE_SECONDS, FairLock

SECONDS = 60


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def start(lock: FairLock, clock: Clock, owner: str, order: list[str]) -> threading.Thread:
    """A thread that takes the lock once, and waits for it when this returns."""

    def take() -> None:
        with lock.turn(owner):
            order.append(owner)
        clock.seconds += GRACE_SECONDS  # others need not wait for a second step

    count = lock.waiting
    thread = threading.Thread(target=take)
    thread.start()
    deadline = time.monotonic() + SECONDS
    while lock.waiting == count:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return thread


def use(lock: FairLock, clock: Clock, owner: str, seconds: float) -> None:
    """Have the lock for some time."""
    with lock.turn(owner):
        clock.seconds += seconds


def test_fair_lock_prefers_the_owner_with_the_least_use() -> None:
    """Ten threads of one owner wait when the thread of another comes; it is next."""
    clock = Clock()
    lock = FairLock(clock)
    order: list[str] = []
    with lock.turn("many"):
        clock.seconds += 1
        threads = [start(lock, clock, owner, order) for owner in ["many"] * 10 + ["one"]]
    for thread in threads:
        thread.join(SECONDS)
    assert order == ["one"] + ["many"] * 10


def test_fair_lock_forgets_use_with_time() -> None:
    """Ten seconds of a minute ago count less than one second of now."""
    clock = Clock()
    lock = FairLock(clock)
    order: list[str] = []
    use(lock, clock, "before", 10)
    clock.seconds += 60
    use(lock, clock, "now", 1)
    with lock.turn("third"):
        threads = [start(lock, clock, owner, order) for owner in ("now", "before")]
        clock.seconds += 2
    for thread in threads:
        thread.join(SECONDS)
    assert order == ["before", "now"]


def test_fair_lock_is_kept_between_two_steps_of_who_used_less() -> None:
    """The next step may begin a little later, though another owner waits; in the end that one has its turn."""
    clock = Clock()
    lock = FairLock(clock)
    order: list[str] = []
    use(lock, clock, "heavy", 1)
    with lock.turn("light"):
        thread = start(lock, clock, "heavy", order)
    for _ in range(5):
        clock.seconds += GRACE_SECONDS / 10
        with lock.turn("light"):
            order.append("light")
    clock.seconds += GRACE_SECONDS
    thread.join(SECONDS)
    assert order == ["light"] * 5 + ["heavy"]


def test_fair_lock_counts_the_time_between_two_steps() -> None:
    """An owner cannot keep others from the lock by steps that are short and far apart."""
    clock = Clock()
    lock = FairLock(clock)
    order: list[str] = []
    use(lock, clock, "heavy", 3 * GRACE_SECONDS)
    with lock.turn("light"):
        thread = start(lock, clock, "heavy", order)
    for _ in range(20):
        clock.seconds += GRACE_SECONDS / 2
        with lock.turn("light"):
            order.append("light")
    thread.join(SECONDS)
    assert order.index("heavy") == 6


def test_fair_lock_is_held_by_one_thread() -> None:
    lock = FairLock()
    holders = 0
    highest = 0

    def take(owner: str) -> None:
        nonlocal holders, highest
        for _ in range(200):
            with lock.turn(owner):
                holders += 1
                highest = max(highest, holders)
                holders -= 1

    threads = [threading.Thread(target=take, args=(owner,)) for owner in "aabbc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert (highest, lock.waiting) == (1, 0)
