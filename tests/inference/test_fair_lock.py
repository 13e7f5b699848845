"""Owners take turns at the lock, however many of their threads wait."""

from __future__ import annotations

import threading
import time

from ftpipe.inference.engine import FairLock

SECONDS = 60


def test_fair_lock_gives_owners_turns() -> None:
    """Ten threads of one owner wait when the thread of another comes; it is second."""
    lock = FairLock()
    order: list[str] = []

    def take(owner: str) -> None:
        with lock.turn(owner):
            order.append(owner)

    threads = [threading.Thread(target=take, args=(owner,)) for owner in ["many"] * 10 + ["one"]]
    with lock.turn("many"):
        for count, thread in enumerate(threads, 1):
            thread.start()
            deadline = time.monotonic() + SECONDS
            while lock.waiting < count:
                assert time.monotonic() < deadline
                time.sleep(0.001)
    for thread in threads:
        thread.join(SECONDS)
    assert order.index("one") == 1
    assert len(order) == 11


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
