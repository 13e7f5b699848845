"""Clients that harm the embedded server by being slow or endless: they are cut off, and others are served."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator

import pytest

from tests.server.processes import ServerProcess

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with a short timeout for bodies."""
    folder = tmp_path_factory.mktemp("slow") / "data"
    folder.mkdir()
    process = ServerProcess(folder, body_timeout=0.5)
    process.start()
    yield process
    process.kill()


def address(server: ServerProcess) -> tuple[str, int]:
    """Where it listens."""
    url = urllib.parse.urlsplit(str(server.note["base_url"]))
    return str(url.hostname), int(url.port or 0)


def read_all(client: socket.socket) -> bytes:
    """Whatever comes until the connection ends."""
    received = b""
    with contextlib.suppress(OSError):
        while data := client.recv(65536):
            received += data
    return received


def is_healthy(server: ServerProcess) -> bool:
    """Whether somebody else is served meanwhile."""
    host, port = address(server)
    with urllib.request.urlopen(f"http://{host}:{port}/health", timeout=60) as response:
        return bool(json.loads(response.read())["status"] == "ok")


def test_server_slow_body_times_out(server: ServerProcess) -> None:
    """Row 43: one byte and then nothing, of a thousand that were promised, from thirty clients at once: 408."""
    head = b"POST /v1/fine_tuning/jobs HTTP/1.1\r\nHost: %b:%d\r\nContent-Type: application/json\r\n"
    host, port = address(server)
    clients = [socket.create_connection((host, port), timeout=60) for _ in range(30)]
    started_at = time.monotonic()
    for client in clients:
        client.sendall(head % (host.encode(), port) + b"Content-Length: 1000\r\n\r\n{")
    assert is_healthy(server)
    status_lines = [read_all(client).split(b"\r\n", 1)[0] for client in clients]
    for client in clients:
        client.close()
    assert all(line.startswith(b"HTTP/1.1 408") for line in status_lines), status_lines
    assert time.monotonic() - started_at < 15


@pytest.mark.parametrize("flood", [b"X: " + b"y" * 1_000_000, b"\r\n".join(b"X-%d: y" % n for n in range(50_000))])
def test_server_refuses_header_flood(server: ServerProcess, flood: bytes) -> None:
    """Row 43: a header of a megabyte, or fifty thousand of them: the connection ends, and the server lives."""
    host, port = address(server)
    with socket.create_connection((host, port), timeout=60) as client, contextlib.suppress(OSError):
        client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: %b:%d\r\n" % (host.encode(), port) + flood + b"\r\n\r\n")
        assert b" 200 " not in read_all(client).split(b"\r\n", 1)[0]
    assert is_healthy(server)
