"""The owner who used the lock least is next, however many threads of others wait."""

from __future__ import annotations

import threading
import time

from ftpipe.inference.engine import FairLock

SECONDS = 60


def order_of(lock: FairLock, holder: str, owners: list[str]) -> list[str]:
    """The order in which owners get a lock if they come one after the other while ``holder`` has it."""
    order: list[str] = []

    def take(owner: str) -> None:
        with lock.turn(owner):
            order.append(owner)

    threads = [threading.Thread(target=take, args=(owner,)) for owner in owners]
    with lock.turn(holder):
        for count, thread in enumerate(threads, 1):
            thread.start()
            deadline = time.monotonic() + SECONDS
            while lock.waiting < count:
                assert time.monotonic() < deadline
                time.sleep(0.001)
    for thread in threads:
        thread.join(SECONDS)
    return order


def test_fair_lock_prefers_the_owner_with_the_least_use() -> None:
    """Ten threads of one owner wait when the thread of another comes; it is next."""
    assert order_of(FairLock(), "many", ["many"] * 10 + ["one"]) == ["one"] + ["many"] * 10


def test_fair_lock_forgets_use_with_time() -> None:
    """Ten seconds of a minute ago count less than one second of now."""
    seconds = 0.0
    lock = FairLock(lambda: seconds)
    for owner, used, later in (("before", 10.0, 60.0), ("now", 1.0, 0.0)):
        with lock.turn(owner):
            seconds += used
        seconds += later
    assert order_of(lock, "third", ["now", "before"]) == ["before", "now"]


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
