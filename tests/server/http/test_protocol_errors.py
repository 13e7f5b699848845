"""What is not HTTP is answered with OpenAI's error object, and the server goes on."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.processes import ServerProcess

HOST = b"Host: 127.0.0.1\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    data_dir: Path = tmp_path_factory.mktemp("protocol") / "data"
    data_dir.mkdir()
    server = ServerProcess(data_dir)
    server.start()
    yield server
    server.stop()


def send(server: ServerProcess, data: bytes) -> bytes:
    """What the server answers until it closes the connection, or sends nothing for two seconds."""
    note = server.note
    pieces = []
    with socket.create_connection((note["host"], note["port"]), timeout=2) as connection:
        connection.sendall(data)
        with contextlib.suppress(TimeoutError):
            while piece := connection.recv(65536):
                pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET /h\xc3\xa4 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /health HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + HOST + b"A: \x00\r\n\r\n",
        b"POST /v1/files HTTP/1.1\r\n" + HOST + b"Content-Length: x\r\n\r\n",
        b"POST /v1/files HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
        b"POST /v1/files HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/files HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
    ],
)
def test_protocol_error_is_openai_error_object(server: ServerProcess, data: bytes) -> None:
    head, _, body = send(server, data).partition(b"\r\n\r\n")
    status = int(head.split(b" ")[1])
    assert 400 <= status < 500 or status == 501
    assert b"content-type: application/json" in head.lower()
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "data",
    [
        b"POST /v1/files HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST /v1/files HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFFFFF\r\n",
        b"POST /v1/uploads HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n\x00\x00\x00",
        b"\r\n" * 1000,
    ],
)
def test_protocol_garbage_is_never_5xx(server: ServerProcess, data: bytes) -> None:
    answer = send(server, data)
    assert not answer.startswith(b"HTTP/1.1 5"), answer
    assert b"HTTP/1.1 200" in send(server, b"GET /health HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
