"""Timeouts for clients that send a byte now and then, and the limit of headers."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from tests.server.processes import ServerProcess

BODY_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
WHOLE = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with short timeouts."""
    data_dir = tmp_path_factory.mktemp("timeouts") / "data"
    data_dir.mkdir()
    server = ServerProcess(data_dir, header_timeout=1.0, body_timeout=1.0)
    server.start()
    yield server
    server.stop()


def connect(server: ServerProcess, content: bytes) -> socket.socket:
    """A connection that has sent the beginning of a request."""
    connection = socket.create_connection(("127.0.0.1", server.note["port"]), timeout=60)
    connection.sendall(content)
    return connection


def send_slowly(connection: socket.socket, seconds: float = 8) -> bytes:
    """Send a byte every tenth of a second until the server closes the connection; what it sent, and ``closed``."""
    received = b""
    connection.settimeout(0.1)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            connection.sendall(b"a")
            piece = connection.recv(65536)
        except TimeoutError:
            continue
        except OSError:
            return received + b"closed"
        if not piece:
            return received + b"closed"
        received += piece
    return received


@pytest.mark.parametrize(
    "start",
    [b"", b"GET /health HTTP/1.1\r\nX-Slow: ", BODY_HEAD + b"Content-Length: 100000\r\n\r\n", WHOLE + b"GET /he"],
    ids=["nothing", "header", "body", "second request"],
)
def test_timeouts_end_slow_request(server: ServerProcess, start: bytes) -> None:
    """408, and the connection is closed, however regularly a byte comes."""
    with connect(server, start) as connection:
        received = send_slowly(connection)
    assert b"408" in received
    assert b"request_timeout" in received
    assert received.endswith(b"closed")
    if start.startswith(WHOLE):
        assert received.startswith(b"HTTP/1.1 200")


def test_timeouts_serve_others_beside_300_slow_clients(server: ServerProcess) -> None:
    """Connections that never finish their headers take nothing from those that do, and are gone afterwards."""
    slow = [connect(server, b"GET /health HTTP/1.1\r\nX-Slow: ") for _ in range(300)]
    started_at = time.monotonic()
    with connect(server, WHOLE) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    assert time.monotonic() - started_at < 5
    ended = 0
    for connection in slow:
        with connection:
            answer = connection.recv(4096)
            ended += b"408" in answer
    assert ended == 300


def test_header_limit_is_64_kb(server: ServerProcess) -> None:
    """Not much more, so that the server reads all of it and its response is not lost with the connection."""
    head = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Flood: "
    with connect(server, head + b"a" * 64 * 1024) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")


def test_header_limit_ends_flood(server: ServerProcess) -> None:
    """The connection is closed while the client still sends, and the server serves others."""
    with connect(server, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n") as connection:
        received = b""
        try:
            for number in range(4000):
                connection.sendall(b"X-Flood-%d: %s\r\n" % (number, b"a" * 200))
            received = connection.recv(4096)
        except OSError:
            received = b""
    assert received == b"" or received.startswith(b"HTTP/1.1 400")
    with connect(server, WHOLE) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\ncontent-length: 5\r\n",
    ],
)
def test_request_with_two_lengths_is_refused(server: ServerProcess, framing: bytes) -> None:
    """One answer, after which the connection is closed: the bytes behind it are not taken for a second request."""
    smuggled = b"0\r\n\r\n" + WHOLE
    with connect(server, BODY_HEAD + framing + b"\r\n" + smuggled) as connection:
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b"invalid_framing" in received
    assert received.count(b"HTTP/1.1 ") == 1
