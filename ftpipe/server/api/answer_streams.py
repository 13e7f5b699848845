"""Compute several answers of one request at the same time, and take what they give as it comes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeAlias, TypeVar

from ftpipe.server.cancellation import RequestCancelledError

MAX_CONCURRENT_ANSWERS = 16
"""Answers of one request that are computed at the same time."""
MAX_WAITING_ITEMS = 32
"""Items of one answer that wait to be taken; it is not computed further meanwhile."""

Item = TypeVar("Item")
CheckCancelled: TypeAlias = Callable[[], None]
"""Called before each token; raises an error to end the work."""
StartAnswer: TypeAlias = Callable[[CheckCancelled], Iterator[Item]]
"""Gives the items of one answer, of which nothing is computed before the first one is taken."""


@dataclass(slots=True)
class _Run(Generic[Item]):
    """The answers while they are computed."""

    start: Sequence[StartAnswer[Item]]
    check_cancelled: CheckCancelled
    items: queue.SimpleQueue[tuple[int, Item | None, BaseException | None]] = field(default_factory=queue.SimpleQueue)
    has_ended: threading.Event = field(default_factory=threading.Event)
    free_slots: list[threading.Semaphore] = field(default_factory=list)

    def compute(self, index: int) -> None:
        """Compute one answer; called in a thread."""
        error: BaseException | None = None
        try:
            with closing(self.start[index](self._check)) as items:  # type: ignore[type-var]  # a generator
                for item in items:
                    self.free_slots[index].acquire()
                    self._check()
                    self.items.put((index, item, None))
        except BaseException as exc:  # noqa: BLE001  # it is raised where the items are taken
            error = exc
        self.items.put((index, None, error))

    def end(self) -> None:
        """Let the threads end before the next token."""
        self.has_ended.set()
        for slots in self.free_slots:
            slots.release()

    def _check(self) -> None:
        self.check_cancelled()
        if self.has_ended.is_set():
            message = "nobody takes the answers of the request any more"
            raise RequestCancelledError(message)


def concurrent_items(start: Sequence[StartAnswer[Item]], check_cancelled: CheckCancelled) -> Iterator[tuple[int, Item]]:
    """The items of several answers, each with the number of its answer; an error of one ends all.

    Closing the iterator ends the answers, and waits until they have.

    Args:
        start: Starts each answer.
        check_cancelled: Called before each token, in several threads.
    """
    if len(start) == 1:
        with closing(start[0](check_cancelled)) as items:  # type: ignore[type-var]  # a generator
            for item in items:
                yield 0, item
        return
    run = _Run(start, check_cancelled, free_slots=[threading.Semaphore(MAX_WAITING_ITEMS) for _ in start])
    with ThreadPoolExecutor(min(len(start), MAX_CONCURRENT_ANSWERS), thread_name_prefix="answer") as pool:
        try:
            for index in range(len(start)):
                pool.submit(run.compute, index)
            running = len(start)
            while running:
                index, item_or_none, error = run.items.get()
                if error is not None:
                    raise error
                if item_or_none is None:
                    running -= 1
                else:
                    run.free_slots[index].release()
                    yield index, item_or_none
        finally:
            run.end()


def with_first(chunks: Iterator[str]) -> Iterator[str]:
    """Compute the first chunk at once, so that an error of the engine is an HTTP error, not a broken stream."""
    first = list(islice(chunks, 1))

    def joined() -> Iterator[str]:
        with closing(chunks):  # type: ignore[type-var]  # a generator, which has close()
            yield from first
            yield from chunks

    return joined()
