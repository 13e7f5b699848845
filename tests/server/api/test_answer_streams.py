"""Several answers at the same time: as they come, and ended together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from ftpipe.server.api.answer_streams import MAX_CONCURRENT_ANSWERS, MAX_WAITING_ITEMS, concurrent_items
from ftpipe.server.cancellation import CancelToken, RequestCancelledError

SECONDS = 30
"""The longest wait for an event; only a failing test takes it."""
Check = Callable[[], None]


def test_items_of_all_answers_come_while_they_are_computed() -> None:
    """Each answer waits for the others before its first item."""
    together = threading.Barrier(3, timeout=SECONDS)

    def answer(number: int, _check: Check) -> Iterator[str]:
        together.wait()
        yield from (f"{number}a", f"{number}b")

    items = list(concurrent_items([partial(answer, number) for number in range(3)], lambda: None))
    assert sorted(items) == [(number, f"{number}{letter}") for number in range(3) for letter in "ab"]
    for number in range(3):
        assert [item for index, item in items if index == number] == [f"{number}a", f"{number}b"]


def test_more_answers_than_are_computed_at_once_all_come() -> None:
    def answer(number: int, _check: Check) -> Iterator[int]:
        yield number

    count = 2 * MAX_CONCURRENT_ANSWERS + 1
    items = list(concurrent_items([partial(answer, number) for number in range(count)], lambda: None))
    assert sorted(items) == [(number, number) for number in range(count)]


@pytest.mark.parametrize("count", [1, 3])
def test_error_of_one_answer_ends_all(count: int) -> None:
    """It is the error that is raised, not those of the answers that it ended."""
    ended = threading.Semaphore(0)

    def fail(_check: Check) -> Iterator[int]:
        yield 1
        message = "the first"
        raise ValueError(message)

    def answer(check: Check) -> Iterator[int]:
        try:
            while True:
                check()
                yield 2
        finally:
            ended.release()

    with pytest.raises(ValueError, match="the first"):
        list(concurrent_items([fail, *[answer] * (count - 1)], lambda: None))
    assert all(ended.acquire(timeout=SECONDS) for _ in range(count - 1))


@pytest.mark.parametrize("count", [1, 3])
def test_closing_ends_all_answers(count: int) -> None:
    """Also those that wait because nobody takes their items, and those that were not begun."""
    running = []

    def answer(check: Check) -> Iterator[int]:
        running.append(1)
        try:
            while True:
                check()
                yield 1
        finally:
            running.pop()

    items = concurrent_items([answer] * count, lambda: None)
    next(items)
    items.close()  # type: ignore[attr-defined]  # a generator
    assert running == []


def test_answers_are_not_computed_far_ahead() -> None:
    """Of a client that does not read."""
    counts = [0, 0]
    has_waited = threading.Event()

    def answer(number: int, _check: Check) -> Iterator[int]:
        while counts[number] < 10 * MAX_WAITING_ITEMS:
            counts[number] += 1
            if counts[number] > MAX_WAITING_ITEMS:
                has_waited.set()
            yield number

    items = concurrent_items([partial(answer, number) for number in range(2)], lambda: None)
    next(items)
    assert has_waited.wait(SECONDS)
    items.close()  # type: ignore[attr-defined]  # a generator
    assert max(counts) <= MAX_WAITING_ITEMS + 2


def test_cancelled_request_ends_all_answers() -> None:
    token = CancelToken()

    def answer(check: Check) -> Iterator[int]:
        while True:
            check()
            yield 1

    items = concurrent_items([answer, answer], token.raise_if_cancelled)
    next(items)
    token.cancel()
    with pytest.raises(RequestCancelledError):
        list(items)
