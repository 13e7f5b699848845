"""Read the lists that an endpoint sends in pages. They end, whatever the endpoint answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from openai.pagination import SyncCursorPage, SyncPage

from ftpipe.providers.retry import DeadlineExceededError

T = TypeVar("T")

MAX_PAGES = 1000
"""How many pages of one list are read: 100,000 items if a page has 100."""


def iter_items(
    first: SyncPage[T] | SyncCursorPage[T], *, max_seconds: float, clock: Callable[[], float] = time.monotonic
) -> Iterator[T]:
    """The items of a list, page by page.

    The list ends at a page that the endpoint calls the last one, at a page whose cursor was used before (the endpoint
    would send the same items for ever), and after ``MAX_PAGES``.

    Args:
        first: The first page.
        max_seconds: Time for all pages together.
        clock: Monotonic seconds.

    Raises:
        DeadlineExceededError: The time is up and the list has not ended.
    """
    deadline = clock() + max_seconds
    cursors: set[object] = set()
    page: SyncPage[T] | SyncCursorPage[T] = first
    for number in range(1, MAX_PAGES + 1):
        info = page.next_page_info()
        cursor = info.params.get("after") if info is not None and isinstance(info.params, dict) else None
        if cursor is not None and cursor in cursors:
            return
        cursors.add(cursor)
        yield from page.data or []
        if cursor is None or number == MAX_PAGES or not page.has_next_page():
            return
        if clock() > deadline:
            raise DeadlineExceededError(f"the list has not ended within {max_seconds:.0f} seconds")
        page = page.get_next_page()
