"""The queue in front of chat: bounded in number and time, fair to owners, left by clients that disconnect."""

from __future__ import annotations

import asyncio

import pytest

from ftpipe.server.http.request_queue import QueueLimits, RequestQueue
from ftpipe.server.protocol import ApiError


def make_queue(**changes: float) -> RequestQueue:
    """A queue with one slot and two places to wait, unless changed."""
    limits: dict[str, float] = {"max_running": 1, "max_waiting": 2, "max_wait_seconds": 60, "max_running_per_owner": 8}
    limits |= {"max_waiting_per_owner": 99, **changes}
    return RequestQueue(QueueLimits(**limits))  # type: ignore[arg-type]  # whole numbers where they must be


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_request_queue_refuses_beyond_max_waiting() -> None:
    async def scenario() -> None:
        queue = make_queue()
        slot = await queue.acquire("a")
        waiting = [asyncio.create_task(queue.acquire("a")) for _ in range(2)]
        await settle()
        with pytest.raises(ApiError) as refused:
            await queue.acquire("a")
        assert (refused.value.status, queue.waiting) == (429, 2)
        slot.release()
        for task in waiting:
            (await task).release()
        assert (queue.running, queue.waiting) == (0, 0)

    asyncio.run(scenario())


def test_request_queue_keeps_room_for_other_owners() -> None:
    """One owner cannot fill the queue, whatever its requests wait for."""

    async def scenario() -> None:
        queue = make_queue(max_waiting=4, max_waiting_per_owner=2)
        slot = await queue.acquire("a")
        waiting = asyncio.create_task(queue.acquire("a"))
        await settle()
        with queue.waiting_elsewhere("a"):
            with pytest.raises(ApiError, match="2 requests with this API key") as refused:
                queue.refuse_if_full("a")
            assert refused.value.status == 429
            queue.refuse_if_full("b")
        queue.refuse_if_full("a")
        slot.release()
        (await waiting).release()

    asyncio.run(scenario())


def test_request_queue_refuses_after_max_wait() -> None:
    async def scenario() -> None:
        queue = make_queue(max_wait_seconds=0.01)
        slot = await queue.acquire("a")
        with pytest.raises(ApiError) as refused:
            await queue.acquire("a")
        assert (refused.value.status, queue.waiting) == (429, 0)
        slot.release()
        (await queue.acquire("a")).release()

    asyncio.run(scenario())


def test_request_queue_alternates_between_owners() -> None:
    """Ten requests of one owner do not delay the one of another."""

    async def scenario() -> None:
        queue = make_queue(max_waiting=20)
        order: list[str] = []

        async def request(owner: str) -> None:
            slot = await queue.acquire(owner)
            order.append(owner)
            slot.release()

        slot = await queue.acquire("many")
        tasks = [asyncio.create_task(request("many")) for _ in range(10)]
        await settle()
        tasks.append(asyncio.create_task(request("one")))
        await settle()
        slot.release()
        await asyncio.gather(*tasks)
        assert order.index("one") == 1

    asyncio.run(scenario())


def test_request_queue_keeps_slots_for_other_owners() -> None:
    async def scenario() -> None:
        queue = make_queue(max_running=2, max_running_per_owner=1)
        first = await queue.acquire("many")
        second = asyncio.create_task(queue.acquire("many"))
        await settle()
        other = await queue.acquire("one")
        assert not second.done()
        other.release()
        await settle()
        assert not second.done()
        first.release()
        (await second).release()
        assert queue.running == 0

    asyncio.run(scenario())


def test_request_queue_cancelled_waiter_leaves() -> None:
    """Also one that was let in, but was cancelled before it knew."""

    async def scenario() -> None:
        queue = make_queue()
        slot = await queue.acquire("a")
        tasks = [asyncio.create_task(queue.acquire("a")) for _ in range(2)]
        await settle()
        tasks[0].cancel()
        await settle()
        assert queue.waiting == 1
        slot.release()
        tasks[1].cancel()
        await settle()
        assert (queue.running, queue.waiting) == (0, 0)

    asyncio.run(scenario())
