"""Answer requests that the server itself sends: with its engine, or at the host that a route leads to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import Any, TypeVar

from ftpipe.errors import FtpipeError
from ftpipe.server.cancellation import CancelToken
from ftpipe.server.protocol import ApiRequest
from ftpipe.server.routes import ChatUpstream, ModelRoutes, Route

Result = TypeVar("Result")
Complete = Callable[[ApiRequest], Any]
"""Answers a request whose answer is not streamed; raises ``FtpipeError`` if there is none."""


class RoutedChats:
    """Answers mirrored chats, and the chats and completions of batches, as a client's are answered.

    Args:
        complete: Answers chats with the server's engine.
        complete_text: Continues texts with it; refuses models at other hosts.
        routes: Names that are served by models of other names, here or at other hosts.
    """

    def __init__(self, complete: Complete, complete_text: Complete, routes: ModelRoutes) -> None:
        self._complete = complete
        self._complete_text = complete_text
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
        route = self._find(request)
        if route is None:
            answer: Mapping[str, Any] = self._complete(request)
        elif route.upstream is None:
            answer = self._complete(replace(request, body={**request.body, "model": route.model}, alias=route.name))
        else:
            answer = self._complete_at(route, route.upstream, request)
        return answer

    def complete_text(self, request: ApiRequest) -> Mapping[str, Any]:
        """Continue texts; called in a thread.

        Raises:
            FtpipeError: There is no answer, for example because the model's host gets chats only.
        """
        route = self._find(request)
        if route is None or route.completions is None:
            continued: Mapping[str, Any] = self._complete_text(request)
            return continued
        return self._complete_at(route, route.completions, request)

    def _find(self, request: ApiRequest) -> Route | None:
        return self._routes.find(request.owner, str(request.body["model"]))

    def _complete_at(self, route: Route, upstream: ChatUpstream, request: ApiRequest) -> Mapping[str, Any]:
        body = {**request.body, "model": route.model}
        return self._await(upstream.complete(body, route.name), request.cancel_token)

    def _await(self, call: Coroutine[Any, Any, Result], token: CancelToken) -> Result:
        """The result of a call that another host answers.

        Raises:
            RequestCancelledError: The request was cancelled.
        """
        if self._loop is None:
            call.close()
            message = "the server has not started"
            raise RuntimeError(message)
        future = asyncio.run_coroutine_threadsafe(call, self._loop)

        def cancel() -> None:
            future.cancel()

        token.on_cancel(cancel)
        try:
            return future.result()
        except CancelledError:
            token.raise_if_cancelled()
            raise
