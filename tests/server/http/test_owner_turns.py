"""In which order the requests of several owners begin."""

from __future__ import annotations

import asyncio

from ftpipe.server.http.middleware import OwnerTurns


def test_owner_turns_many_requests_of_one_do_not_delay_another() -> None:
    order: list[str] = []

    async def run() -> None:
        turns = OwnerTurns()

        async def request(owner: str) -> None:
            await turns.wait(owner)
            order.append(owner)

        await asyncio.gather(*(request(owner) for owner in ["many"] * 50 + ["one"] * 2))

    asyncio.run(run())
    assert order[:2] == ["many", "one"]
    assert order.index("one", 2) <= 4
    assert order.count("many") == 50


def test_owner_turns_skips_cancelled_requests() -> None:
    order: list[int] = []

    async def run() -> None:
        turns = OwnerTurns()

        async def request(number: int) -> None:
            await turns.wait("owner")
            order.append(number)

        tasks = [asyncio.create_task(request(number)) for number in range(5)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        tasks[2].cancel()
        await asyncio.wait(tasks)

    asyncio.run(run())
    assert order == [0, 3, 4]
