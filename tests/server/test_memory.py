"""Garbage of a running server is collected, and memory is given back, without a request that asks for it."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
import weakref

import pytest

from ftpipe.server import memory


class Cycle:
    """An object that only a garbage collection can delete."""

    def __init__(self) -> None:
        self.itself = self


async def _run_until_collected(garbage: weakref.ref[Cycle]) -> None:
    task = asyncio.create_task(memory.release_memory_regularly())
    try:
        async with asyncio.timeout(60):
            while garbage() is not None:
                await asyncio.sleep(0.001)
    finally:
        task.cancel()


def test_release_memory_regularly_collects_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "RELEASE_SECONDS", 0.001)
    gc.disable()
    try:
        asyncio.run(_run_until_collected(weakref.ref(Cycle())))
    finally:
        gc.enable()


def test_limit_malloc_arenas_changes_nothing_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on another system nor with another C library does it fail."""
    memory.limit_malloc_arenas()
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    memory.limit_malloc_arenas()
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(ctypes, "CDLL")
    memory.limit_malloc_arenas()
