"""The adapters that an inference server has loaded for this server: loaded at their first use, unloaded for others."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ftpipe.errors import FtpipeError, UsageError
from ftpipe.gateway.inference.client import AdapterLimitError, InferenceClient
from ftpipe.modeling.loading import check_adapter

log = logging.getLogger("ftpipe.server.gateway")


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter of this server."""

    name: str
    """Its name at the inference server; another one for each checkpoint, so that its weights never change."""
    path: Path
    """Its folder on this machine."""


@dataclass(frozen=True, slots=True)
class PathMap:
    """Where the inference server sees the folders of this machine.

    Attributes:
        pairs: A folder here, and the same folder there.
    """

    pairs: Sequence[tuple[Path, PurePosixPath]] = ()

    def there(self, path: Path) -> str:
        """The path of a folder at the inference server; the longest matching folder decides."""
        matching = [(here, there) for here, there in self.pairs if path.is_relative_to(here)]
        if not matching:
            return str(path)
        here, there = max(matching, key=lambda pair: len(pair[0].parts))
        return str(there / path.relative_to(here))


def parse_path_map(values: Iterable[str]) -> PathMap:
    """Paths from values ``FROM=TO``.

    Raises:
        UsageError: A value has another form, or a path is not absolute.
    """
    pairs: list[tuple[Path, PurePosixPath]] = []
    for value in values:
        here, equals, there = (part.strip() for part in value.partition("="))
        if not equals or not here or not there.startswith("/"):
            message = f"--inference-path {value} is not FROM=TO with an absolute folder TO"
            raise UsageError(message, "for example --inference-path /home/me/.local/share/ftpipe/server=/ftpipe")
        pairs.append((Path(here).expanduser().absolute(), PurePosixPath(there)))
    return PathMap(tuple(pairs))


class LoadedAdapters:
    """Loads adapters at the inference server, and unloads those that were not used for the longest time.

    All methods must be called in one event loop.

    Args:
        client: Calls the inference server.
        paths: Where it sees the folders of this machine.
        max_loaded: How many adapters it shall hold at most; more while all of them are in use.
    """

    def __init__(self, client: InferenceClient, paths: PathMap, max_loaded: int) -> None:
        self._client = client
        self._paths = paths
        self._max_loaded = max_loaded
        self._loaded: OrderedDict[str, None] = OrderedDict()
        self._in_use: Counter[str] = Counter()
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._refused: set[str] = set()

    def names(self) -> list[str]:
        """The adapters that are loaded, as far as is known; the least recently used first."""
        return list(self._loaded)

    @asynccontextmanager
    async def in_use(self, adapter: Adapter | None) -> AsyncIterator[None]:
        """Keep an adapter from being unloaded; it need not be loaded yet."""
        if adapter is None:
            yield
            return
        self._in_use[adapter.name] += 1
        try:
            yield
        finally:
            self._in_use[adapter.name] -= 1
            if not self._in_use[adapter.name]:
                del self._in_use[adapter.name]

    async def load(self, adapter: Adapter) -> None:
        """Load an adapter unless it is loaded; requests that come meanwhile wait for the same load.

        Raises:
            FtpipeError: It cannot be loaded.
        """
        if adapter.name in self._loaded:
            self._loaded.move_to_end(adapter.name)
            return
        task = self._loads.get(adapter.name)
        if task is None:
            task = self._loads[adapter.name] = asyncio.create_task(self._load(adapter))
            task.add_done_callback(lambda _: self._loads.pop(adapter.name))
        await asyncio.shield(task)  # a client that disconnects does not end the load for the others

    def forget(self, names: Iterable[str]) -> None:
        """Take note that the inference server does not have these adapters, for example after its restart."""
        for name in names:
            self._loaded.pop(name, None)
            self._refused.discard(name)

    def add(self, names: Iterable[str]) -> None:
        """Take note of adapters that are loaded, for example since before this server's restart."""
        for name in names:
            self._loaded.setdefault(name)

    async def unload(self, name: str) -> bool:
        """Unload an adapter that is not in use.

        Returns:
            ``False`` if it is in use, or if the inference server refused.

        Raises:
            FtpipeError: The server cannot be reached.
        """
        if not self._can_unload(name):
            return False
        self._loaded.pop(name, None)
        if await self._client.unload(name):
            log.info("unloaded %s at %s", name, self._client.root)
            return True
        # vLLM refuses to unload an adapter that its cache has dropped, and goes on listing it
        self._refused.add(name)
        return False

    async def close(self) -> None:
        """End the loads that are under way."""
        for task in list(self._loads.values()):
            task.cancel()
        await asyncio.gather(*self._loads.values(), return_exceptions=True)

    async def _load(self, adapter: Adapter) -> None:
        check_adapter(adapter.path)
        while len(self._loaded) + len(self._loads) > self._max_loaded and await self._unload_oldest():
            pass
        while True:
            try:
                await self._client.load(adapter.name, self._paths.there(adapter.path))
                break
            except AdapterLimitError:
                if not await self._unload_oldest():
                    raise
        self._loaded[adapter.name] = None
        self._refused.discard(adapter.name)
        log.info("loaded %s at %s", adapter.name, self._client.root)

    def _can_unload(self, name: str) -> bool:
        return not self._in_use[name] and name not in self._loads and name not in self._refused

    async def _unload_oldest(self) -> bool:
        """Unload the adapter that was not used for the longest time; ``False`` if none can be unloaded."""
        name = next(filter(self._can_unload, self._loaded), None)
        if name is None:
            return False
        try:
            await self.unload(name)
        except FtpipeError as exc:
            log.warning("%s could not be unloaded: %s", name, exc)
        return True
