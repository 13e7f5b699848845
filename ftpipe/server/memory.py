"""Keep the memory of processes that run for weeks flat: few heaps, and no old objects in garbage collection."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys

import anyio.to_thread

GC_THRESHOLD = 20_000
"""New objects between two garbage collections; Python's 700 are those of a few requests."""
MAX_ARENAS = 2
"""Heaps of glibc's malloc; by default it has eight for each processor core, and each keeps what was freed in it."""
RELEASE_SECONDS = 60.0
"""Time between two releases of unused memory."""
M_ARENA_MAX = -8
"""Option of ``mallopt``. Source: glibc, malloc/malloc.h; mallopt(3), https://man7.org, 2026-11-28."""


def limit_malloc_arenas() -> None:
    """Let all threads share a few heaps; must be called before the threads start. Without glibc, nothing is changed.

    With them, a server under attack grew by 40 MB in the first minute, and no more; without, by 70, and it went on
    (tests/benchmarks/soak.py, two CPU cores, 2026-11-28).
    """
    _call_glibc("mallopt", M_ARENA_MAX, MAX_ARENAS)


def exclude_from_garbage_collection() -> None:
    """Collect what was dropped; the objects that remain, of libraries and of models, are not looked at again.

    Their collection took 70 % of the event loop's time when many clients connected at once, measured 2026-11-28 when
    torch was in the server's process.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


async def release_memory_regularly() -> None:
    """Collect garbage and give unused memory back to the system, from time to time, until the task is cancelled."""
    while True:
        await asyncio.sleep(RELEASE_SECONDS)
        await anyio.to_thread.run_sync(release_memory)


def release_memory() -> None:
    """Collect garbage and give unused memory back to the system."""
    gc.collect()
    _call_glibc("malloc_trim", 0)


def _call_glibc(name: str, *arguments: int) -> None:
    """Call a function of the C library, if it is one that has it."""
    if sys.platform == "linux" and (function := getattr(ctypes.CDLL(None), name, None)) is not None:
        function(*arguments)
