"""Status, stop and logs of a server that runs in another process."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ftpipe.atomic_files import read_json
from ftpipe.errors import LocalStateError, NotFoundError
from ftpipe.server.storage.data_dir import DataDirectory

POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class InferenceStatus:
    """The state of an inference server."""

    url: str
    status: str
    """``ok``, ``starting``, ``unreachable`` or ``failing``."""
    adapters: int
    """Adapters that are loaded there."""
    message: str = ""
    """What is wrong."""
    hint: str = ""
    """The next step."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """The state of the server of a data folder."""

    running: bool
    """True if a process holds the folder's lock."""
    is_responding: bool = False
    """True if ``/health`` responded in time."""
    pid: int | None = None
    base_url: str | None = None
    api_key_file: str | None = None
    """The file with its keys; ``None`` if it needs none."""
    version: str | None = None
    started_at: int | None = None
    jobs_running: int | None = None
    jobs_open: int | None = None
    inference: InferenceStatus | None = None
    """The inference server that answers in place of this one; ``None`` if there is none."""


def inference_status(directory: DataDirectory, pid: int | None) -> InferenceStatus | None:
    """What the running server of a data folder knows of its inference server; ``None`` if it has none.

    The file of a server that was killed is not read: ``pid`` is that of the server that runs.
    """
    state = read_json(directory.inference_status) or {}
    if not isinstance(state.get("url"), str) or state.get("pid") != pid:
        return None
    return InferenceStatus(
        url=state["url"],
        status=str(state.get("status")),
        adapters=int(state.get("adapters") or 0),
        message=str(state.get("message") or ""),
        hint=str(state.get("hint") or ""),
    )


def status(data_dir: Path, *, timeout: float = 2.0) -> ServerStatus:
    """The state of the server of a data folder.

    Args:
        data_dir: The folder given to ``serve``.
        timeout: Seconds to wait for ``/health``.
    """
    directory = DataDirectory(data_dir.expanduser().absolute())
    if not is_locked(directory):
        return ServerStatus(running=False)
    address = read_json(directory.address) or {}
    health = _fetch_health(address.get("base_url"), directory, timeout)
    jobs = (health or {}).get("jobs") or {}
    return ServerStatus(
        running=True,
        is_responding=health is not None,
        pid=address.get("pid"),
        base_url=address.get("base_url"),
        api_key_file=address.get("api_key_file"),
        version=address.get("version"),
        started_at=address.get("started_at"),
        jobs_running=jobs.get("running"),
        jobs_open=jobs.get("open"),
        inference=inference_status(directory, address.get("pid")),
    )


def is_locked(directory: DataDirectory) -> bool:
    """True while a server holds the lock of its data folder; the system releases the lock of a killed one."""
    if not directory.lock.exists():
        return False
    lock = FileLock(directory.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _fetch_health(base_url: object, directory: DataDirectory, timeout: float) -> dict[str, Any] | None:
    if not isinstance(base_url, str) or not base_url.startswith("http://"):
        return None
    # A proxy from the environment cannot reach this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(base_url.removesuffix("/v1") + "/health")  # noqa: S310 - the scheme was checked
    with suppress(OSError, ValueError):
        # The key of a server on loopback: without one, the numbers of jobs are left out.
        request.add_header("Authorization", f"Bearer {directory.token.read_text(encoding='ascii').strip()}")
    try:
        with opener.open(request, timeout=timeout) as response:
            value = json.load(response)
    except (OSError, ValueError, urllib.error.URLError):
        return None
    return value if isinstance(value, dict) else None


def stop(data_dir: Path, *, timeout: float = 30.0, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Stop the server of a data folder; its trainers save their state, and their jobs continue at the next start.

    Args:
        data_dir: The folder given to ``serve``.
        timeout: Seconds to wait until its process has ended.
        sleep: Waits.

    Returns:
        ``False`` if none was running.

    Raises:
        LocalStateError: If it has not stopped in time, or cannot be signalled.
    """
    directory = DataDirectory(data_dir.expanduser().absolute())
    pid: int | None = None
    waited = 0.0
    while is_locked(directory) or (pid is not None and _is_alive(pid)):
        if pid is None:
            pid = _terminate(directory)  # none while the server is starting: it is stopped as soon as it listens
        if waited >= timeout:
            process = f"the server with pid {pid}" if pid else f"the server on {directory.root}"
            raise LocalStateError(
                f"{process} has not stopped after {timeout:.0f} s",
                f"see `ftpipe serve logs`, or end it with: kill -9 {pid}" if pid else "see `ftpipe serve status`",
            )
        sleep(POLL_SECONDS)
        waited += POLL_SECONDS
    return pid is not None or waited > 0


def _terminate(directory: DataDirectory) -> int | None:
    """Ask the server to stop, and return its pid; ``None`` if the pid is not known (yet)."""
    pid = (read_json(directory.address) or {}).get("pid")
    if not isinstance(pid, int):
        return None
    try:
        # The lock is held, so the pid is that of a running server.
        os.kill(pid, signal.SIGTERM)
    except OSError as exc:
        message = f"the server with pid {pid} cannot be stopped: {exc}"
        raise LocalStateError(message, "stop it as the user who started it") from exc
    return pid


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended, and whose parent has not noticed, does not."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def logs(
    data_dir: Path, *, lines: int = 100, follow: bool = False, sleep: Callable[[float], None] = time.sleep
) -> Iterator[str]:
    """The last lines of a server's log, without line endings.

    Args:
        data_dir: The folder given to ``serve``.
        lines: How many of the last lines.
        follow: Continue with new lines as they are written.
        sleep: Waits for new lines.

    Raises:
        NotFoundError: If there is no log yet.
    """
    path = DataDirectory(data_dir.expanduser().absolute()).log
    try:
        handle = path.open(encoding="utf-8", errors="replace")
    except OSError as exc:
        message = f"there is no server log at {path}"
        raise NotFoundError(message, "start a server with 'ftpipe serve'") from exc
    with handle:
        yield from (line.rstrip("\n") for line in deque(handle, maxlen=lines))
        while follow:
            line = handle.readline()
            if line:
                yield line.rstrip("\n")
            else:
                sleep(0.5)
