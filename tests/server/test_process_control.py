"""A server as a process: its note, its lock, status, stop and logs."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import httpx2
import psutil
import pytest

from ftpipe.cli import run
from ftpipe.errors import ConfigError, LockedError, NotFoundError, UsageError
from ftpipe.server.http import serve
from ftpipe.server.process_control import is_locked, logs, status, stop
from ftpipe.server.settings import ServeSettings
from ftpipe.server.storage.data_dir import DataDirectory
from tests.server.conftest import LINES
from tests.server.processes import ServerProcess, trainers_of


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server in a process of its own."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    server = ServerProcess(data_dir)
    server.start()
    yield server
    if server.process is not None and server.process.poll() is None:
        server.stop()


def test_control_status_logs_and_stop_of_running_server(server: ServerProcess) -> None:
    """Status, logs and stop work from another process."""
    observed = status(server.data_dir)
    assert (observed.running, observed.is_responding, observed.base_url) == (True, True, server.note["base_url"])
    assert (observed.jobs_running, observed.jobs_open) == (0, 0)
    assert any("listening on" in line for line in logs(server.data_dir))
    assert stop(server.data_dir) is True
    assert status(server.data_dir).running is False
    assert not (server.data_dir / "server.json").exists()
    assert stop(server.data_dir) is False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=str)
def test_serve_signal_stops_server_cleanly(server: ServerProcess, number: signal.Signals) -> None:
    """Trainers are stopped, the address is removed and the lock is released, also when the terminal is closed."""
    body = {
        "model": "gpt-4o-mini",
        "training_file": server.upload(LINES),
        "hyperparameters": {"n_epochs": 3, "fake_steps": 50, "fake_seconds": 0.1},
    }
    server.call("/fine_tuning/jobs", body)
    deadline = time.monotonic() + 60
    while not trainers_of(server.data_dir) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert trainers_of(server.data_dir)
    assert server.stop(number) == 0
    assert not (server.data_dir / "server.json").exists()
    assert trainers_of(server.data_dir) == []


def test_control_status_of_killed_server_is_not_running(server: ServerProcess) -> None:
    """Its note is still there, its lock is not."""
    server.kill()
    assert (server.data_dir / "server.json").exists()
    assert status(server.data_dir).running is False


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/chat/completions", "/responses"])
def test_serve_killed_while_it_streams_is_an_error_to_the_client(tmp_path: Path, path: str) -> None:
    """The answer does not look complete, and the next server on the same folder answers."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    server = ServerProcess(data_dir, answer_words=100_000)
    server.start()
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "input": "hi", "stream": True}
    del body["input" if "chat" in path else "messages"]
    with httpx2.stream("POST", server.note["base_url"] + path, json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        assert next(lines)
        server.kill()
        with pytest.raises(httpx2.TransportError):
            list(lines)
    server.changes = {}
    server.start()
    answer_text = json.dumps(server.call(path, body | {"stream": False}))
    server.stop()
    assert "hello there friend" in answer_text


def test_serve_refuses_second_server_on_data_dir(server: ServerProcess) -> None:
    """Two supervisors would train jobs twice."""
    with pytest.raises(LockedError) as refused:
        serve(ServeSettings(data_dir=server.data_dir, port=0))
    assert server.note["base_url"] in refused.value.message
    assert f"ftpipe serve stop --data-dir {server.data_dir}" in refused.value.hint


def test_control_stop_returns_when_process_is_gone(tmp_path: Path) -> None:
    """Not when it has let go of its lock: its port and memory may still be in use."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    server = ServerProcess(data_dir, module="tests.server.slow_to_end")
    server.start()
    assert server.process is not None
    waits = 0

    def wait(seconds: float) -> None:
        nonlocal waits
        waits += 1
        if not is_locked(DataDirectory(data_dir)):
            (tmp_path / "end").touch()
        time.sleep(seconds)

    assert stop(data_dir, timeout=120, sleep=wait) is True
    assert (tmp_path / "end").exists()
    assert server.process.poll() == 0


def test_serve_announces_address_when_it_listens(tmp_path: Path) -> None:
    """A client that reads it is answered; before, there is no line."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (tmp_path / "end").touch()
    server = ServerProcess(data_dir, module="tests.server.slow_to_end")
    server.start()
    try:
        wait_until(lambda: f"on_listening {server.note['base_url']}\n" in (tmp_path / "server.out").read_text())
        assert server.call("/models")["object"] == "list"
    finally:
        server.stop()


def test_serve_names_flag_when_port_is_in_use(server: ServerProcess, tmp_path: Path) -> None:
    """Named with the flag that helps."""
    with pytest.raises(ConfigError) as refused:
        serve(ServeSettings(data_dir=tmp_path / "other", port=server.note["port"]))
    assert "--port" in refused.value.hint
    with pytest.raises(UsageError):
        serve(ServeSettings(data_dir=tmp_path / "other", host="0.0.0.0", port=0))


def test_serve_files_are_private(server: ServerProcess) -> None:
    """Folders 0700, files 0600."""
    for path in server.data_dir.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_access_log_has_routes_but_no_request_content(server: ServerProcess) -> None:
    """Neither query, nor key, nor content."""
    url = server.note["base_url"] + "/files?purpose=canary-query"
    request = urllib.request.Request(url, headers={"Authorization": "Bearer canary-key"})
    with urllib.request.urlopen(request, timeout=60):
        pass
    server.upload(b'{"canary-content": 1}\n')
    deadline = time.monotonic() + 60
    text = ""
    while "POST /v1/files 200" not in text and time.monotonic() < deadline:  # a line follows its answer
        text = "\n".join(logs(server.data_dir))
    assert "GET /v1/files 200" in text
    assert "POST /v1/files 200" in text
    assert "canary" not in text


def test_control_logs_follow(server: ServerProcess) -> None:
    """The iterator waits for more, and gives them as they come."""

    def ask(_seconds: float) -> None:
        server.call("/models")

    lines = logs(server.data_dir, lines=0, follow=True, sleep=ask)
    assert any("GET /v1/models 200" in line for line in islice(lines, 3))


def test_control_logs_without_log_file(tmp_path: Path) -> None:
    """Before the first start there is none."""
    with pytest.raises(NotFoundError):
        next(iter(logs(tmp_path)))


def test_serve_starts_in_two_seconds_without_torch(tmp_path: Path) -> None:
    """Torch is for jobs and chats. Processor time of a fresh process, so that busy neighbours do not count."""
    code = (
        "import sys, time; from pathlib import Path; from ftpipe.server.http import create_app;"
        "from ftpipe.server.services import build_context; from ftpipe.server.settings import ServeSettings;"
        f"create_app(build_context(ServeSettings(data_dir=Path({str(tmp_path / 'd')!r}))));"
        "print([name for name in ('torch', 'transformers', 'peft', 'openai') if name in sys.modules]);"
        "print(time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, seconds = done.stdout.splitlines()
    assert loaded == "[]"
    assert float(seconds) < 2.0


def test_serve_ray_address_needs_engine_ray(capsys: pytest.CaptureFixture[str]) -> None:
    """Refused at once, instead of training on this machine unnoticed."""
    with pytest.raises(SystemExit) as stop:
        run(["serve", "--ray-address", "head:6379"])
    assert stop.value.code == 2
    assert "--engine ray" in capsys.readouterr().err


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Poll until something is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start_stubborn_server(data_dir: Path, **changes: bool) -> tuple[ServerProcess, socket.socket]:
    """A server whose only chat does not end until the file ``go`` appears, and the connection of that chat."""
    data_dir.mkdir()
    server = ServerProcess(data_dir, module="tests.server.stubborn_host", **changes)
    server.start()
    chat = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection(("127.0.0.1", server.note["port"]), timeout=60)
    connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(chat) + chat)
    wait_until((data_dir.parent / "computing").exists)
    return server, connection


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_serve_stops_while_a_model_is_loaded(tmp_path: Path, number: signal.Signals) -> None:
    """The client is told, and the process that loads is ended with the server."""
    server, connection = start_stubborn_server(tmp_path / "data", is_loading=True)
    assert server.process is not None
    children = psutil.Process(server.process.pid).children()
    assert len(children) == 1
    assert server.stop(number) in (0, -number)
    with connection, connection.makefile("rb") as response:
        status, _, body = response.read().partition(b"\r\n")
        assert b" 503 " in status
        assert b"server_stopping" in body
    wait_until(lambda: not children[0].is_running())


@pytest.mark.slow
def test_serve_releases_lock_after_last_thread(tmp_path: Path) -> None:
    """A second server does not start while the first one still computes, though it no longer answers."""
    data_dir = tmp_path / "data"
    server, connection = start_stubborn_server(data_dir)
    connection.close()
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: not (data_dir / "server.json").exists())
    with pytest.raises(LockedError):
        serve(ServeSettings(data_dir=data_dir, port=0))
    (tmp_path / "go").touch()
    server.process.wait(60)
    again = ServerProcess(data_dir)
    again.start()
    assert again.stop() in (0, -signal.SIGTERM)
