"""Answer chats that the server itself sends: with its engine, or at the host that a route leads to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import Any

from ftpipe.errors import FtpipeError
from ftpipe.server.protocol import ApiRequest
from ftpipe.server.routes import ModelRoutes

Complete = Callable[[ApiRequest], Mapping[str, Any]]
"""Answers a chat that is not streamed; raises ``FtpipeError`` if there is no answer."""


class RoutedChats:
    """Answers mirrored chats and those of batches, as a client's are answered.

    Args:
        complete: Answers with the server's engine.
        routes: Names that are served by models of other names, here or at other hosts.
    """

    def __init__(self, complete: Complete, routes: ModelRoutes) -> None:
        self._complete = complete
        self._routes = routes
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Remember the event loop of the server, in which other hosts are called; must be called in it."""
        self._loop = asyncio.get_running_loop()

    def is_remote(self, owner: str, name: str) -> bool:
        """Whether another host serves a name, so that its answers can cost money."""
        try:
            route = self._routes.find(owner, name)
        except FtpipeError:
            return False  # nothing can be sent to it at the moment
        return route is not None and route.upstream is not None and not route.is_own

    def complete(self, request: ApiRequest) -> Mapping[str, Any]:
        """Answer a chat; called in a thread.

        Raises:
            FtpipeError: There is no answer.
        """
        name = str(request.body["model"])
        route = self._routes.find(request.owner, name)
        if route is None:
            return self._complete(request)
        body = {**request.body, "model": route.model}
        if route.upstream is None or self._loop is None:
            return self._complete(replace(request, body=body, alias=name))
        request.cancel_token.raise_if_cancelled()
        future = asyncio.run_coroutine_threadsafe(route.upstream.complete(body, name), self._loop)

        def cancel() -> None:
            future.cancel()

        request.cancel_token.on_cancel(cancel)
        try:
            return future.result()
        except CancelledError:
            request.cancel_token.raise_if_cancelled()
            raise
