"""Keep the last used models in memory, and load others in threads, so that a slow load stops nobody else."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

MAX_CONCURRENT_LOADS = 2
"""Models that are loaded at the same time; others wait for their turn, outside of every lock."""
CANCEL_POLL_SECONDS = 0.05
"""How often a thread that waits for a model looks whether its request was cancelled."""

Model = TypeVar("Model")


class ModelCache(Generic[Model]):
    """Loaded models by name.

    Args:
        load: Loads a model; runs in a thread, without a lock.
        max_models: Models that are kept.
        on_loaded: Called in the thread after a model has been loaded and others have been dropped for it.
        on_dropped: Called with each model that is dropped.
    """

    def __init__(
        self,
        load: Callable[[str], Model],
        *,
        max_models: int,
        on_loaded: Callable[[], None] = lambda: None,
        on_dropped: Callable[[Model], None] = lambda _: None,
    ) -> None:
        self._load = load
        self._max_models = max_models
        self._on_loaded = on_loaded
        self._on_dropped = on_dropped
        self._lock = threading.Lock()
        self._loaded: OrderedDict[str, Model] = OrderedDict()
        self._loading: dict[str, Future[Model]] = {}
        self._pool = ThreadPoolExecutor(MAX_CONCURRENT_LOADS, thread_name_prefix="load-model")

    def names(self) -> tuple[str, ...]:
        """Models in memory, the least recently used first."""
        with self._lock:
            return tuple(self._loaded)

    def request(self, name: str) -> Future[Model]:
        """The model, now or once it is loaded; requests for a model that is being loaded share one load."""
        with self._lock:
            if name in self._loaded:
                self._loaded.move_to_end(name)
                future: Future[Model] = Future()
                future.set_result(self._loaded[name])
                return future
            if name not in self._loading:
                self._loading[name] = self._pool.submit(self._load_and_keep, name)
            return self._loading[name]

    def get(self, name: str, check_cancelled: Callable[[], None] = lambda: None) -> Model:
        """The model; waits until it is loaded.

        Args:
            name: Its name.
            check_cancelled: Called while it waits; an error that it raises ends the wait.
        """
        future = self.request(name)
        while not future.done():
            check_cancelled()
            wait([future], CANCEL_POLL_SECONDS)
        return future.result()

    def clear(self) -> None:
        """Drop all models in memory."""
        self._drop_oldest(0)

    def _drop_oldest(self, remaining: int) -> None:
        dropped: list[Model] = []
        with self._lock:
            while len(self._loaded) > remaining:
                dropped.append(self._loaded.popitem(last=False)[1])
        for model in dropped:
            self._on_dropped(model)

    def _load_and_keep(self, name: str) -> Model:
        try:
            model = self._load(name)
        except BaseException:
            with self._lock:
                del self._loading[name]
            raise
        with self._lock:
            del self._loading[name]
            self._loaded[name] = model
        self._drop_oldest(self._max_models)
        self._on_loaded()
        return model
