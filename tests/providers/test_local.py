"""The embedded server as a client finds it: slow is not the same as not running."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpipe.errors import ResponseTimeoutError
from ftpipe.providers import local
from ftpipe.providers.profiles import find_profile


@pytest.fixture
def busy_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The data folder of a server that accepts connections and does not answer."""
    monkeypatch.setattr(local, "HEALTH_TIMEOUT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        (tmp_path / "server.json").write_text(json.dumps({"base_url": url, "pid": os.getpid()}))
        yield tmp_path


def test_busy_server_is_told_as_busy_and_not_started_again(busy_server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second server could not use its folder; the error would name that lock."""
    started: list[object] = []
    monkeypatch.setattr("subprocess.Popen", started.append)
    with pytest.raises(ResponseTimeoutError, match="busy"):
        local.ensure_server(busy_server)
    assert started == []


def test_server_that_has_ended_is_not_busy(tmp_path: Path) -> None:
    """Nobody listens there any more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    (tmp_path / "server.json").write_text(json.dumps({"base_url": url, "pid": os.getpid()}))
    assert local.running_url(tmp_path) is None


def test_server_that_starts_slowly_is_told_as_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class StartingProcess:
        def __init__(self, *_command: object, **_options: object) -> None:
            pass

        def poll(self) -> None:
            """It has not ended."""

    monkeypatch.setattr(local, "MAX_START_SECONDS", 0.0)
    monkeypatch.setattr("subprocess.Popen", StartingProcess)
    with pytest.raises(ResponseTimeoutError, match="still starting"):
        local.ensure_server(tmp_path)


def test_separate_server_gets_key_of_variable(own_home: Path) -> None:
    """Only the one that FTPIPE_LOCAL_BASE_URL names; the server of this machine has its own."""
    url = "http://127.0.0.1:1/v1"
    keys = [
        local.local_key(find_profile("local"), {"FTPIPE_LOCAL_API_KEY": "k" * 16, **variables})
        for variables in ({"FTPIPE_LOCAL_BASE_URL": url}, {})
    ]
    assert keys[0] == "k" * 16
    assert keys[1] == (Path(os.environ["FTPIPE_HOME"]) / "server" / "token").read_text().strip()
