"""``serve``: lock the data folder, listen, say where, and leave cleanly."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import FrameType

import uvicorn
from filelock import FileLock, Timeout

from ftpipe.atomic_files import write_json
from ftpipe.errors import ConfigError, LockedError
from ftpipe.server.api.health import own_version
from ftpipe.server.auth import load_api_keys, require_keys_unless_loopback
from ftpipe.server.http.app import create_asgi_app
from ftpipe.server.http.timeouts import header_timeout_protocol
from ftpipe.server.services import ServerOverrides, build_context
from ftpipe.server.settings import ServeSettings
from ftpipe.server.storage.data_dir import DataDirectory

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
MAX_BYTES = 10 * 1024 * 1024
KEPT_FILES = 3


def configure_logging(path: Path, level: str) -> None:
    """Send the server's log lines to a file that only its owner may read, and to stderr.

    Args:
        path: The file.
        level: Name of a logging level.
    """
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    handlers: list[logging.Handler] = [
        RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=KEPT_FILES, encoding="utf-8")
    ]
    if not _is_stderr(path):
        handlers.append(logging.StreamHandler(sys.stderr))
    for name in ("ftpipe.server", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.setLevel(level.upper() if name == "ftpipe.server" else "WARNING")
        logger.propagate = False
        logger.handlers = list(handlers)
    for handler in handlers:
        handler.setFormatter(logging.Formatter(FORMAT))


def _is_stderr(path: Path) -> bool:
    """True where whoever started the server sends its stderr to the log file: each line would be there twice."""
    try:
        return os.path.samestat(os.fstat(sys.stderr.fileno()), path.stat())
    except (OSError, ValueError, AttributeError):
        return False


log = logging.getLogger("ftpipe.server")

BACKLOG = 512
STOP_SECONDS = 5
"""How long requests may go on when the server stops."""
KEEP_ALIVE_SECONDS = 30
MAX_HEADER_BYTES = 64 * 1024


def serve(settings: ServeSettings, overrides: ServerOverrides | None = None) -> None:
    """Run the server until SIGINT or SIGTERM.

    Raises:
        UsageError: If it should listen beyond this machine without keys.
        ConfigError: If the key file or the address is at fault.
        LockedError: If another server runs on the data folder.
        LocalStateError: If the data folder cannot be used.
    """
    os.umask(0o077)
    require_keys_unless_loopback(settings.host, load_api_keys(settings.api_key_file))
    layout = DataDirectory(settings.data_dir.expanduser().absolute())
    layout.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _exclusive_lock(layout), _bound_socket(settings) as sock, _deferred_signals():
        configure_logging(layout.log, settings.log_level)
        server = _AnnouncingServer(_uvicorn_config(settings, overrides), layout.address, settings.host)
        try:
            server.run(sockets=[sock])
        finally:
            layout.address.unlink(missing_ok=True)


def _uvicorn_config(settings: ServeSettings, overrides: ServerOverrides | None) -> uvicorn.Config:
    return uvicorn.Config(
        create_asgi_app(build_context(settings, overrides)),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        http=header_timeout_protocol(settings.header_timeout),
        ws="none",
        lifespan="on",
    )


class _AnnouncingServer(uvicorn.Server):
    """A server that writes ``server.json`` once it listens."""

    def __init__(self, config: uvicorn.Config, address: Path, host: str) -> None:
        super().__init__(config)
        self._address = address
        self._host = host

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
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
                "version": own_version(),
                "started_at": int(time.time()),
            },
            mode=0o600,
        )
        log.info("listening on %s", url)


def base_url(host: str, port: int) -> str:
    """Where a client on this machine reaches the server."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # names the address, binds nothing
    return f"http://[{reachable}]:{port}/v1" if ":" in reachable else f"http://{reachable}:{port}/v1"


@contextmanager
def _exclusive_lock(layout: DataDirectory) -> Iterator[None]:
    lock = FileLock(layout.lock, mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout as exc:
        message = f"a server runs on {layout.root} already"
        raise LockedError(message, "see 'ftpipe serve status', or choose another --data-dir") from exc
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _bound_socket(settings: ServeSettings) -> Iterator[socket.socket]:
    try:
        family, kind, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind)
    except OSError as exc:
        message = f"cannot listen on {settings.host}: {exc}"
        raise ConfigError(message, "give an address of this machine with --host") from exc
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        message = f"cannot listen on {settings.host} port {settings.port}: {exc}"
        raise ConfigError(message, "choose another port with --port; 0 takes a free one") from exc
    with sock:
        yield sock


@contextmanager
def _deferred_signals() -> Iterator[None]:
    """Let uvicorn end on a signal without the process dying before its clean-up: it raises the signal again."""

    def seen(number: int, _frame: FrameType | None) -> None:
        log.info("stopped by signal %d", number)

    before = {number: signal.signal(number, seen) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
