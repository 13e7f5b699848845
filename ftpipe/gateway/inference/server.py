"""The inference server as the embedded server sees it: which models it has, and whether it works."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import write_json
from ftpipe.errors import ConfigError, ConnectionFailedError, FtpipeError, NotFoundError
from ftpipe.gateway.inference.adapters import Adapter, LoadedAdapters, PathMap
from ftpipe.gateway.inference.bases import find_base
from ftpipe.gateway.inference.client import InferenceClient, ListedModel

log = logging.getLogger("ftpipe.server.gateway")

POLL_SECONDS = 10.0
"""How often the inference server is looked at."""
MAX_LOADED_ADAPTERS = 64


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """Which inference server answers, and how it sees this machine's models."""

    url: str
    key: str = field(default="", repr=False)
    key_env: str = ""
    """The variable that has the key."""
    base_names: Mapping[str, str] = field(default_factory=dict)
    """The names that base models have there, for those that its list does not tell."""
    paths: PathMap = field(default_factory=PathMap)
    max_loaded_adapters: int = MAX_LOADED_ADAPTERS

    def client(self) -> InferenceClient:
        """Calls it."""
        return InferenceClient(self.url, self.key, self.key_env)


class InferenceServer:
    """Knows the models of the inference server, and keeps its adapters as they should be.

    All methods must be called in one event loop, except for ``health``.

    Args:
        settings: Which server it is.
        is_served: Whether the model of an adapter still exists, by the adapter's name; called in a thread.
        is_ours: Whether an adapter was loaded by this server, by its name.
        status_file: Where the state is written for `ftpipe serve status` and `ftpipe doctor`.
    """

    def __init__(
        self,
        settings: InferenceSettings,
        *,
        is_served: Callable[[str], bool],
        is_ours: Callable[[str], bool],
        status_file: Path,
    ) -> None:
        self.client = settings.client()
        self.adapters = LoadedAdapters(self.client, settings.paths, settings.max_loaded_adapters)
        self._settings = settings
        self._is_served = is_served
        self._is_ours = is_ours
        self._status_file = status_file
        self._listed: list[ListedModel] | None = None
        self._problem: FtpipeError | None = None
        self._written: Mapping[str, Any] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look at the inference server regularly."""
        self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """End everything; the adapters stay loaded for the next start."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self.adapters.close()
        await self.client.close()
        await asyncio.to_thread(self._status_file.unlink, missing_ok=True)

    async def ready(self, base: str, adapter: Adapter | None) -> str:
        """Load what a request needs, and return how the request names it.

        Raises:
            FtpipeError: The inference server does not have the base model, or cannot load the adapter.
        """
        name = find_base(base, self._listed or (), self._settings.base_names)
        if name is None:
            await self.refresh()  # it may have been started, or started again with another model, since the last look
            name = find_base(base, self._listed or (), self._settings.base_names)
        if name is None:
            has = ", ".join(model.name for model in self._listed or () if not model.is_adapter)
            message = f"the inference server {self.client.root} does not have the base model {base}; it has {has}"
            raise NotFoundError(message, f"if one of them is {base}, add --inference-model {base}=NAME")
        if adapter is not None:
            await self.adapters.load(adapter)
        return self.client.model_name(name, None if adapter is None else adapter.name)

    def base_name(self, base: str) -> str:
        """The name of a base model there, as far as is known; otherwise its own."""
        return find_base(base, self._listed or (), self._settings.base_names) or base

    def health(self) -> Mapping[str, Any]:
        """The state, without the address."""
        if self._problem is not None:
            is_down = isinstance(self._problem, ConnectionFailedError)
            state = "unreachable" if is_down else "failing"
        else:
            state = "starting" if self._listed is None else "ok"
        return {"status": state, "adapters": len(self.adapters.names())}

    async def refresh(self) -> None:
        """Read which models and adapters the inference server has.

        Raises:
            FtpipeError: It cannot be read.
        """
        loaded = self.adapters.names()
        try:
            listed = await self.client.models()
            is_new = self._listed is None or self._problem is not None
            problem = await self._problem_of(listed) if is_new else None
        except FtpipeError as exc:
            self._note(exc)
            raise
        self._listed = listed
        names = {model.name for model in listed if self._is_ours(model.name)}
        if names or self.client.api == "vllm":  # SGLang lists adapters in newer versions only
            gone = [name for name in loaded if name not in names]
            if gone:
                log.info("%s does not have %d of the loaded adapters any more", self.client.root, len(gone))
            self.adapters.forget(gone)
            self.adapters.add(names)
        self._note(problem)

    async def unload_deleted(self) -> None:
        """Unload the adapters whose models were deleted.

        Raises:
            FtpipeError: The inference server cannot be reached.
        """
        names = self.adapters.names()
        for name in await asyncio.to_thread(self._deleted, names):
            await self.adapters.unload(name)

    def _deleted(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if not self._is_served(name)]

    async def _watch(self) -> None:
        while True:
            try:
                await self.refresh()
                await self.unload_deleted()
            except FtpipeError as exc:
                log.debug("the inference server was looked at: %s", exc)  # a change of the state is logged by itself
            except Exception:  # one failed look must not end the next ones
                log.exception("the inference server could not be looked at")
            self._write_status()
            await asyncio.sleep(POLL_SECONDS)

    async def _problem_of(self, listed: Iterable[ListedModel]) -> FtpipeError | None:
        """What keeps a server that answers from being used; otherwise the first chat would show it."""
        if not any(not model.is_adapter for model in listed):
            return ConfigError(f"{self.client.root} lists no base model", "see the inference server's log")
        return None if await self.client.can_load() else self.client.without_loading()

    def _note(self, problem: FtpipeError | None) -> None:
        """Remember the state, and log that it has changed."""
        before, self._problem = self._problem, problem
        if problem is not None and (before is None or before.message != problem.message):
            log.error("%s; next step: %s", problem.message, problem.hint)
        elif problem is None and before is not None:
            log.info("the inference server %s works again", self.client.root)

    def _write_status(self) -> None:
        """Write the state to a file that only the owner of the server can read."""
        problem = self._problem
        state = {
            **self.health(),
            "pid": os.getpid(),
            "url": self.client.root,
            "message": "" if problem is None else problem.message,
            "hint": "" if problem is None else problem.hint,
        }
        if state != self._written:
            with suppress(OSError):
                write_json(self._status_file, {**state, "since": int(time.time())}, mode=0o600)
                self._written = state
