"""Cancel the work of a request when its client disconnects or the server stops, and wait until all work has ended."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ftpipe.errors import FtpipeError


class RequestCancelledError(FtpipeError):
    """Nobody waits for the answer any more, or the server is stopping."""

    code = "request_cancelled"


class CancelToken:
    """Whether the work of one request should stop; can be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_cancelled = False
        self._callbacks: list[Callable[[], None]] = []

    @property
    def is_cancelled(self) -> bool:
        """True once the request has been cancelled."""
        return self._is_cancelled

    def cancel(self) -> None:
        """Cancel the request; the second time changes nothing."""
        with self._lock:
            self._is_cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the request is cancelled; at once if it is cancelled already."""
        with self._lock:
            if not self._is_cancelled:
                self._callbacks.append(callback)
                return
        callback()

    def raise_if_cancelled(self) -> None:
        """End the work of a cancelled request.

        Raises:
            RequestCancelledError: The request has been cancelled.
        """
        if self._is_cancelled:
            message = "the request was cancelled"
            raise RequestCancelledError(message)


class ActiveRequests:
    """The requests that are being worked on, so that a server that stops can end them and wait for their threads."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._tokens: weakref.WeakSet[CancelToken] = weakref.WeakSet()
        self._threads = 0
        self._is_stopping = False

    @property
    def is_stopping(self) -> bool:
        """True once the server is stopping."""
        return self._is_stopping

    def new_token(self) -> CancelToken:
        """The token of a new request; cancelled already if the server is stopping."""
        token = CancelToken()
        self.add(token)
        return token

    def add(self, token: CancelToken) -> None:
        """Cancel a token when the server stops; at once if it is stopping."""
        with self._condition:
            self._tokens.add(token)
            is_stopping = self._is_stopping
        if is_stopping:
            token.cancel()

    def tokens(self) -> list[CancelToken]:
        """The tokens of the requests that are being worked on."""
        with self._condition:
            return list(self._tokens)

    @contextmanager
    def working_thread(self) -> Iterator[None]:
        """Count the current thread as working."""
        with self._condition:
            self._threads += 1
        try:
            yield
        finally:
            with self._condition:
                self._threads -= 1
                self._condition.notify_all()

    def cancel_all(self) -> None:
        """Cancel every request, also those that are still to come."""
        with self._condition:
            self._is_stopping = True
        for token in self.tokens():
            token.cancel()

    def wait_until_idle(self, timeout: float) -> bool:
        """Wait until no thread works for a request.

        Returns:
            ``False`` if one still does after ``timeout`` seconds.
        """
        with self._condition:
            return self._condition.wait_for(lambda: self._threads == 0, timeout)
