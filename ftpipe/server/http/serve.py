"""``serve``: lock the data folder, listen, write the address to ``server.json``, and stop cleanly."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import MappingProxyType

import uvicorn
from filelock import FileLock, Timeout
from starlette.types import ASGIApp

import ftpipe
from ftpipe.atomic_files import read_json, write_json
from ftpipe.errors import LockedError
from ftpipe.paths import data_dir_option
from ftpipe.process_priority import switch_threads_often
from ftpipe.server.auth import load_api_keys, require_keys_if_exposed
from ftpipe.server.cancellation import ActiveRequests
from ftpipe.server.http.app import create_app
from ftpipe.server.listening import MountedApps, bound_socket, deferred_signals, uvicorn_config
from ftpipe.server.memory import exclude_from_garbage_collection, limit_malloc_arenas
from ftpipe.server.services import ServerContext, build_context
from ftpipe.server.settings import ServeSettings
from ftpipe.server.storage.data_dir import DataDirectory

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
MAX_LOG_BYTES = 10 * 1024 * 1024
MAX_OLD_LOGS = 3


def configure_logging(path: Path, level: str) -> None:
    """Send the server's log lines to a file that only its owner may read, and to stderr.

    Args:
        path: The file.
        level: Name of a logging level.
    """
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    handlers: list[logging.Handler] = [
        RotatingFileHandler(path, maxBytes=MAX_LOG_BYTES, backupCount=MAX_OLD_LOGS, encoding="utf-8")
    ]
    if not _is_stderr(path):
        handlers.append(logging.StreamHandler(sys.stderr))
    for name in ("ftpipe.server", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.setLevel(level.upper() if name == "ftpipe.server" else "WARNING")
        logger.propagate = False
        logger.handlers = list(handlers)
    for handler in handlers:
        handler.setFormatter(logging.Formatter(LOG_FORMAT))


def _is_stderr(path: Path) -> bool:
    """True if the server's stderr goes to the log file anyway: each line would be in it twice."""
    try:
        return os.path.samestat(os.fstat(sys.stderr.fileno()), path.stat())
    except (OSError, ValueError, AttributeError):
        return False


log = logging.getLogger("ftpipe.server")

THREAD_TIMEOUT_SECONDS = 10
"""How long the threads of cancelled requests may take to end; they look before each token."""


def serve(
    settings: ServeSettings,
    build: Callable[[ServeSettings], ServerContext] = build_context,
    *,
    mounts: Mapping[str, ASGIApp] = MappingProxyType({}),
    on_listening: Callable[[str], None] = lambda _url: None,
    on_stopping: Callable[[], None] = lambda: None,
) -> None:
    """Run the server until SIGINT, SIGTERM or SIGHUP.

    Args:
        settings: How it runs.
        build: Builds the server's components once the data folder is locked.
        mounts: Path → further application at that path.
        on_listening: Called with the base URL when the server accepts connections.
        on_stopping: Called when it begins to stop, which takes a while if jobs are trained or chats computed.

    Raises:
        UsageError: If it would listen beyond this machine without keys.
        ConfigError: If the key file or the address is wrong.
        LockedError: If another server uses the data folder.
        LocalStateError: If the data folder cannot be used.
    """
    os.umask(0o077)
    limit_malloc_arenas()
    switch_threads_often()
    require_keys_if_exposed(settings.host, settings.allowed_origins, load_api_keys(settings.api_key_file))
    data_dir = DataDirectory(settings.data_dir.expanduser().absolute())
    data_dir.prepare()
    with _exclusive_lock(data_dir), bound_socket(settings.host, settings.port) as sock, deferred_signals(log):
        configure_logging(data_dir.log, settings.log_level)
        context = build(settings)
        config = uvicorn_config(
            MountedApps(create_app(context), mounts), settings.header_timeout, settings.body_timeout
        )
        server = _AnnouncingServer(config, context, on_listening, on_stopping)
        exclude_from_garbage_collection()
        try:
            server.run(sockets=[sock])
        finally:
            data_dir.address.unlink(missing_ok=True)
            _wait_for_threads(context.active_requests)


class _AnnouncingServer(uvicorn.Server):
    """Writes ``server.json`` once it listens."""

    def __init__(
        self,
        config: uvicorn.Config,
        context: ServerContext,
        on_listening: Callable[[str], None],
        on_stopping: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._on_listening = on_listening
        self._on_stopping = on_stopping
        self._address = context.data_dir.address
        self._host = context.settings.host
        self._engine = context.settings.engine
        self._key_file = str(context.settings.api_key_file.absolute()) if context.settings.api_key_file else None
        self._active_requests = context.active_requests

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then write the address."""
        await super().startup(sockets)
        if not self.started or not sockets:
            return
        port = sockets[0].getsockname()[1]
        url = base_url(self._host, port)
        write_json(
            self._address,
            {
                "pid": os.getpid(),
                "host": self._host,
                "port": port,
                "base_url": url,
                "api_key_file": self._key_file,
                "engine": self._engine,
                "version": ftpipe.__version__,
                "started_at": int(time.time()),
            },
            mode=0o600,
        )
        log.info("listening on %s", url)
        self._on_listening(url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cancel the requests, then wait for their responses and stop."""
        self._on_stopping()
        self._active_requests.cancel_all()
        await super().shutdown(sockets)


def _wait_for_threads(active: ActiveRequests) -> None:
    """Wait until nothing is computed any more: only then may another server use the data folder.

    A thread that does not end in time is ended with the process; the system releases the lock then, and no sooner.
    """
    active.cancel_all()
    if not active.wait_until_idle(THREAD_TIMEOUT_SECONDS):
        log.error("a request has not ended after %d s; the process is ended", THREAD_TIMEOUT_SECONDS)
        _end_process(1)


def _end_process(code: int) -> None:
    """End the process with its threads, which Python would wait for."""
    logging.shutdown()
    os._exit(code)


def base_url(host: str, port: int) -> str:
    """The URL of the server for clients on this machine."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # names the address, binds nothing
    return f"http://[{reachable}]:{port}/v1" if ":" in reachable else f"http://{reachable}:{port}/v1"


@contextmanager
def _exclusive_lock(data_dir: DataDirectory) -> Iterator[None]:
    lock = FileLock(data_dir.lock, mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout as exc:
        raise _already_running(data_dir) from exc
    try:
        yield
    finally:
        lock.release()


def _already_running(data_dir: DataDirectory) -> LockedError:
    """The error that names the address of the other server, and how to stop it."""
    url = (read_json(data_dir.address) or {}).get("base_url")
    option = data_dir_option(data_dir.root)
    if not isinstance(url, str):
        message = f"a server on {data_dir.root} is starting or stopping"
        return LockedError(message, f"try again in a moment; `ftpipe serve status{option}` shows its state")
    message = f"a server already runs on {data_dir.root}, at {url}"
    return LockedError(message, f"use it at that address, or run `ftpipe serve stop{option}` first")
