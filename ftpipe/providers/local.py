"""The embedded endpoint from the client's side: found when it runs, started in the background when it does not."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import openai

from ftpipe.errors import LocalStateError, MissingExtraError, ProviderError
from ftpipe.paths import server_dir
from ftpipe.providers.client import ApiClient, build_client
from ftpipe.providers.profiles import Profile
from ftpipe.providers.provider import Provider

START_SECONDS = 60.0
"""How long the server may take to answer; usually it is about a second."""
NEEDED = ("starlette", "uvicorn", "multipart")
"""What the server cannot start without; torch and its companions are asked for when a job runs."""
INSTALL = "pip install 'ftpipe[local]'"


def open_local(
    profile: Profile, env: Mapping[str, str], *, start: bool = True, sleep: Callable[[float], None] = time.sleep
) -> Provider:
    """Open the endpoint on this machine.

    Args:
        profile: The ``local`` profile.
        env: Environment variables; ``FTPIPE_LOCAL_BASE_URL`` names a server that is run by hand.
        start: Whether to start a server where none answers.
        sleep: Waits between tries.

    Raises:
        MissingExtraError: The ``local`` extra is not installed.
        ProviderError: The server does not start; the hint names its log.
    """
    fixed = env.get(profile.base_url_env) or profile.base_url
    folder = server_dir()
    base_url = fixed or (ensure_server(folder, sleep=sleep) if start else running_url(folder)) or ""
    current = [base_url]

    def connect() -> openai.OpenAI:
        return build_client(
            base_url=current[0],
            api_key=_token(folder),
            organization=None,
            project=None,
            timeout=profile.request_timeout_seconds,
        )

    def reconnect() -> bool:
        if fixed or not start:
            return False
        current[0] = ensure_server(folder, sleep=sleep)
        return True

    api = ApiClient(
        profile, connect, base_url=base_url or "the endpoint on this machine", reconnect=reconnect, sleep=sleep
    )
    return Provider(profile, api, endpoint=fixed.rstrip("/") if fixed else f"local:{folder}")


def running_url(folder: Path) -> str | None:
    """Base URL of the server that runs on ``folder``; ``None`` where none answers."""
    try:
        card = json.loads((folder / "server.json").read_text(encoding="utf-8"))
        base_url = str(card["base_url"])
        pid = int(card["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return base_url if _is_alive(pid) and _answers(base_url) else None


def ensure_server(folder: Path, *, sleep: Callable[[float], None] = time.sleep) -> str:
    """Base URL of the server on ``folder``, which is started in the background where none answers."""
    found = running_url(folder)
    if found:
        return found
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"the endpoint on this machine needs {', '.join(missing)}, not installed here", INSTALL)
    from filelock import FileLock

    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _token(folder)
        with FileLock(folder / "start.lock"):
            return running_url(folder) or _start(folder, sleep)
    except OSError as exc:
        raise LocalStateError(
            f"cannot keep the endpoint's data in {folder}: {exc.strerror or exc}",
            "set FTPIPE_HOME to a folder that can be written to, with room on its disk",
        ) from exc


def _start(folder: Path, sleep: Callable[[float], None]) -> str:
    log_path = folder / "server.log"
    command = [sys.executable, "-m", "ftpipe", "serve", "--port", "0", "--data-dir", str(folder)]
    command += ["--api-key-file", str(folder / "token")]
    with log_path.open("ab") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=folder,
            env=_environment(),
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        url = running_url(folder)
        if url:
            return url
        if child.poll() is not None:
            break
        sleep(0.1)
    raise ProviderError(
        f"the endpoint on this machine did not start: {_last_line(log_path)}",
        f"the whole story is in {log_path}; `ftpipe serve` in a terminal shows it too",
    )


def _environment() -> dict[str, str]:
    """The child's environment: it needs no keys of hosted endpoints, so it gets none."""
    return {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_TOKEN", "_SECRET"))}


def _token(folder: Path) -> str:
    """The key that client and background server share, made at first use and readable by its owner only."""
    path = folder / "token"
    with contextlib.suppress(OSError):
        found = path.read_text(encoding="ascii").strip()
        if found:
            return found
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    return path.read_text(encoding="ascii").strip()


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
        answer: IO[bytes]
        with opener.open(health, timeout=5) as answer:
            return bool(json.loads(answer.read()).get("status") == "ok")
    except (OSError, ValueError, AttributeError, urllib.error.URLError):
        return False


def _last_line(path: Path) -> str:
    with contextlib.suppress(OSError):
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if lines:
            return lines[-1][:300]
    return "it said nothing"
