"""Models are loaded once, in threads, and a slow load stops nobody else."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from ftpipe.errors import NotFoundError
from ftpipe.inference.model_cache import ModelCache

SECONDS = 60


class SlowLoads:
    """Loads ``slow`` once it may, ``missing`` never, and everything else at once."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.may_finish = threading.Event()
        self.names: list[str] = []

    def load(self, name: str) -> str:
        """The model's name in capitals."""
        self.names.append(name)
        if name == "missing":
            raise NotFoundError("no such model", "choose another")
        if name == "slow":
            self.started.set()
            assert self.may_finish.wait(SECONDS)
        return name.upper()


def stop_after(calls: int) -> Callable[[], None]:
    """A check that raises an error at its n-th call."""
    remaining = [calls]

    def check() -> None:
        remaining[0] -= 1
        if not remaining[0]:
            raise InterruptedError

    return check


def test_model_cache_slow_load_does_not_stop_others() -> None:
    """Neither a model in memory, nor one that is loaded meanwhile, nor a list of both."""
    loads = SlowLoads()
    cache = ModelCache(loads.load, max_models=3)
    assert cache.get("first") == "FIRST"
    slow = cache.request("slow")
    assert loads.started.wait(SECONDS)
    assert (cache.get("first"), cache.get("second"), cache.names()) == ("FIRST", "SECOND", ("first", "second"))
    loads.may_finish.set()
    assert slow.result(SECONDS) == "SLOW"


def test_model_cache_cancelled_request_leaves_while_model_loads() -> None:
    """The load itself goes on, for the next one who asks."""
    loads = SlowLoads()
    cache = ModelCache(loads.load, max_models=1)
    with pytest.raises(InterruptedError):
        cache.get("slow", stop_after(3))
    loads.may_finish.set()
    assert cache.get("slow") == "SLOW"
    assert loads.names == ["slow"]


def test_model_cache_failed_load_is_tried_again() -> None:
    loads = SlowLoads()
    cache = ModelCache(loads.load, max_models=1)
    for _ in range(2):
        with pytest.raises(NotFoundError):
            cache.get("missing")
    assert loads.names == ["missing", "missing"]


def test_model_cache_drops_least_recently_used() -> None:
    cache = ModelCache(str.upper, max_models=2)
    for name in ("a", "b", "a", "c"):
        cache.get(name)
    assert cache.names() == ("a", "c")
