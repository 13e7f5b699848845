"""Finds the embedded server on this machine, and starts it in the background if it does not run."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import openai

from ftpipe.atomic_files import read_or_create_secret
from ftpipe.child_environment import child_environment
from ftpipe.errors import (
    ConnectionFailedError,
    LocalStateError,
    MissingExtraError,
    ProviderError,
    ResponseTimeoutError,
)
from ftpipe.modeling.base_models import DEFAULT_BASE, needs_download
from ftpipe.paths import SERVER_KEY_FILE, models_dir, server_dir
from ftpipe.providers.address import configured_url
from ftpipe.providers.client import ApiClient, build_client
from ftpipe.providers.openai import openai_provider
from ftpipe.providers.profiles import Profile
from ftpipe.providers.provider import Provider

MAX_START_SECONDS = 60.0
"""How long the server may take to start; usually it needs about a second."""
SERVER_PACKAGES = ("starlette", "uvicorn", "multipart")
"""What the server needs to start; torch and what belongs to it are only needed when a job runs."""
HEALTH_TIMEOUT_SECONDS = 20.0
"""How long a running server may take to say that it runs, on a machine that trains with all cores."""
KEY_VARIABLE = "FTPIPE_LOCAL_API_KEY"
"""The key for the server that ``FTPIPE_LOCAL_BASE_URL`` names."""
INSTALL = "pip install 'ftpipe[local]'"


def open_local(
    profile: Profile, env: Mapping[str, str], *, start: bool = True, sleep: Callable[[float], None] = time.sleep
) -> Provider:
    """Open the embedded server.

    Args:
        profile: The ``local`` profile.
        env: Environment variables; ``FTPIPE_LOCAL_BASE_URL`` names a server that was started separately.
        start: Whether to start a server if none answers.
        sleep: Waits between attempts.

    Raises:
        MissingExtraError: The ``local`` extra is not installed.
        ConnectionFailedError: No server answers, and none is started.
        ProviderError: The server does not start; the hint names its log.
    """
    fixed = configured_url(profile, env)
    folder = server_dir()
    base_url = fixed or (ensure_server(folder, sleep=sleep) if start else running_url(folder)) or ""
    if not base_url:
        raise ConnectionFailedError("the embedded server is not running", "start it with `ftpipe serve`")
    current = [base_url]

    def connect() -> openai.OpenAI:
        return build_client(
            base_url=current[0], api_key=local_key(profile, env), timeout=profile.request_timeout_seconds
        )

    def reconnect() -> bool:
        if fixed or not start:
            return False
        current[0] = ensure_server(folder, sleep=sleep)
        return True

    api = ApiClient(profile, connect, base_url=base_url or "the embedded server", reconnect=reconnect, sleep=sleep)
    return openai_provider(profile, api, endpoint=fixed.rstrip("/") if fixed else f"local:{folder}")


def local_key(profile: Profile, env: Mapping[str, str]) -> str:
    """The key for the server: of ``FTPIPE_LOCAL_API_KEY`` if that of another machine is named, else the shared one."""
    named = env.get(KEY_VARIABLE) if configured_url(profile, env) else ""
    return named or read_or_create_secret(server_dir() / SERVER_KEY_FILE)


def running_url(folder: Path) -> str | None:
    """Base URL of the server that runs on ``folder``; ``None`` if none does.

    Raises:
        ResponseTimeoutError: One runs, but does not answer in time.
    """
    try:
        info = json.loads((folder / "server.json").read_text(encoding="utf-8"))
        base_url = str(info["base_url"])
        pid = int(info["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return base_url if _is_alive(pid) and _answers(base_url) else None


def ensure_server(folder: Path, *, sleep: Callable[[float], None] = time.sleep) -> str:
    """Base URL of the server on ``folder``; it is started in the background if none answers."""
    if url := running_url(folder):
        return url
    missing = [name for name in SERVER_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"the embedded server needs packages that are not installed: {', '.join(missing)}", INSTALL
        )
    from filelock import FileLock

    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        read_or_create_secret(folder / SERVER_KEY_FILE)
        with FileLock(folder / "start.lock"):
            return running_url(folder) or _start(folder, sleep)
    except OSError as exc:
        raise LocalStateError(
            f"cannot write the endpoint's data to {folder}: {exc.strerror or exc}",
            "set FTPIPE_HOME to a folder that you can write to, on a disk with free space",
        ) from exc


def _start(folder: Path, sleep: Callable[[float], None]) -> str:
    log_path = folder / "server.log"
    command = [sys.executable, "-m", "ftpipe", "serve", "--port", "0", "--data-dir", str(folder)]
    command += ["--api-key-file", str(folder / SERVER_KEY_FILE)]
    with log_path.open("ab") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=folder,
            env=child_environment(downloads=needs_download(DEFAULT_BASE, models_dir())),
        )
    deadline = time.monotonic() + MAX_START_SECONDS
    while time.monotonic() < deadline:
        url = running_url(folder)
        if url:
            return url
        if child.poll() is not None:
            break
        sleep(0.1)
    if child.poll() is None:
        raise ResponseTimeoutError(
            f"the embedded server is still starting after {MAX_START_SECONDS:.0f} s: the machine is slow or busy",
            "run the same command again in a moment; `ftpipe serve status` shows when the server answers",
        )
    raise ProviderError(
        f"the embedded server did not start: {_last_line(log_path)}",
        f"see {log_path} for details, or run `ftpipe serve` in the foreground",
    )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _answers(base_url: str) -> bool:
    health = base_url.removesuffix("/").removesuffix("/v1") + "/health"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        response: IO[bytes]
        with opener.open(health, timeout=HEALTH_TIMEOUT_SECONDS) as response:
            return bool(json.loads(response.read()).get("status") == "ok")
    except TimeoutError as exc:  # connected, and no response: a server that has ended refuses the connection
        raise ResponseTimeoutError(
            f"the embedded server at {base_url} runs, but has not answered for {HEALTH_TIMEOUT_SECONDS:.0f} s: "
            "it is busy",
            "run the same command again later; `ftpipe serve logs` shows what it does, `ftpipe serve stop` stops it",
        ) from exc
    except (OSError, ValueError, AttributeError, urllib.error.URLError):
        return False


def _last_line(path: Path) -> str:
    with contextlib.suppress(OSError):
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if lines:
            return lines[-1][:300]
    return "its log is empty"
