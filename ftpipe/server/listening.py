"""Listen on an address with uvicorn, and stop cleanly on a signal."""

from __future__ import annotations

import errno
import logging
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from ftpipe.errors import ConfigError
from ftpipe.server.timeouts import header_timeout_protocol

LISTEN_BACKLOG = 512
SHUTDOWN_TIMEOUT_SECONDS = 5
"""How long requests may take to finish when the server stops."""
KEEP_ALIVE_SECONDS = 30
MAX_HEADER_BYTES = 64 * 1024


def uvicorn_config(app: ASGIApp, header_seconds: float, body_seconds: float) -> uvicorn.Config:
    """How uvicorn runs an application.

    Args:
        app: The application.
        header_seconds: Maximum wait for the headers of a request.
        body_seconds: Maximum wait for a client that does not read its response.
    """
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_SECONDS,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        http=header_timeout_protocol(header_seconds, body_seconds),
        ws="none",
        lifespan="on",
    )


class MountedApps:
    """Passes requests below some paths to other applications, which have a middleware of their own.

    Args:
        app: Gets all other requests, and the lifespan.
        mounts: Path → application; ``root_path`` tells it where it is.
    """

    def __init__(self, app: ASGIApp, mounts: Mapping[str, ASGIApp]) -> None:
        self._app = app
        self._mounts = mounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        path = scope["path"] if scope["type"] == "http" else ""
        for prefix, app in self._mounts.items():
            if path == prefix or path.startswith(f"{prefix}/"):
                path = f"{prefix}/" if path == prefix else path
                await app({**scope, "path": path, "root_path": prefix}, receive, send)
                return
        await self._app(scope, receive, send)


@contextmanager
def bound_socket(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens.

    Raises:
        ConfigError: The address is not one of this machine, or the port is in use.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind)
    except OSError as exc:
        message = f"cannot listen on {host}: {exc}"
        raise ConfigError(message, "give an address of this machine with --host") from exc
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(LISTEN_BACKLOG)
    except OSError as exc:
        sock.close()
        if exc.errno == errno.EADDRINUSE:
            message = f"port {port} of {host} is in use by another program"
        else:
            message = f"cannot listen on {host} port {port}: {exc}"
        raise ConfigError(message, "choose another port with --port; 0 takes a free one") from exc
    with sock:
        yield sock


@contextmanager
def deferred_signals(log: logging.Logger) -> Iterator[None]:
    """Keep the process alive for its clean-up: uvicorn stops on a signal and then raises it again."""

    def on_signal(number: int, _frame: FrameType | None) -> None:
        log.info("stopped by signal %d", number)

    def on_hangup(number: int, _frame: FrameType | None) -> None:
        log.info("stopping on signal %d", number)
        signal.raise_signal(signal.SIGTERM)  # uvicorn handles it

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:  # nohup ignores it
        previous[hangup] = signal.signal(hangup, on_hangup)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
