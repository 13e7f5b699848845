"""Clients that send a byte now and then, and floods of headers."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from tests.server.processes import ServerProcess

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
WHOLE = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with little patience."""
    data_dir = tmp_path_factory.mktemp("patience") / "data"
    data_dir.mkdir()
    server = ServerProcess(data_dir, header_timeout=1.0, body_timeout=1.0)
    server.start()
    yield server
    server.stop()


def connect(server: ServerProcess, content: bytes) -> socket.socket:
    """A connection that has sent the beginning of a request."""
    connection = socket.create_connection(("127.0.0.1", server.note["port"]), timeout=10)
    connection.sendall(content)
    return connection


def drip(connection: socket.socket, seconds: float = 8) -> bytes:
    """Send a byte every tenth of a second until the server has had enough; what it said, and that it closed."""
    said = b""
    connection.settimeout(0.1)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            connection.sendall(b"a")
            piece = connection.recv(65536)
        except TimeoutError:
            continue
        except OSError:
            return said + b"closed"
        if not piece:
            return said + b"closed"
        said += piece
    return said


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET /health HTTP/1.1\r\nX-Slow: ", HEAD + b"Content-Length: 100000\r\n\r\n", WHOLE + b"GET /he"],
    ids=["nothing", "header", "body", "second request"],
)
def test_a_request_that_drips_in_is_ended(server: ServerProcess, begun: bytes) -> None:
    """408, and the connection is closed, however regularly a byte comes."""
    with connect(server, begun) as connection:
        said = drip(connection)
    assert b"408" in said
    assert b"request_timeout" in said
    assert said.endswith(b"closed")
    if begun.startswith(WHOLE):
        assert said.startswith(b"HTTP/1.1 200")


def test_others_are_answered_while_hundreds_hold_the_line(server: ServerProcess) -> None:
    """Connections that never finish their headers take nothing from those that do, and are gone afterwards."""
    lazy = [connect(server, b"GET /health HTTP/1.1\r\nX-Slow: ") for _ in range(300)]
    began = time.monotonic()
    with connect(server, WHOLE) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    assert time.monotonic() - began < 5
    ended = 0
    for connection in lazy:
        with connection:
            answer = connection.recv(4096)
            ended += b"408" in answer
    assert ended == 300


def test_a_flood_of_headers_is_cut_off(server: ServerProcess) -> None:
    """More than 64 kB of headers end the connection; the server goes on."""
    with connect(server, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n") as connection:
        said = b""
        try:
            for number in range(4000):
                connection.sendall(b"X-Flood-%d: %s\r\n" % (number, b"a" * 200))
            said = connection.recv(4096)
        except OSError:
            said = b"closed"
    assert said == b"closed" or b" 400 " in said or b" 431 " in said or said == b""
    with connect(server, WHOLE) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
