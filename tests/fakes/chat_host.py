"""A host that answers chats on loopback; each answer can be scripted, and every request is recorded."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

SECONDS = 60
"""The longest wait for an event; only a failing test takes it."""
SERVED = "org/tuned-model-7f3a"
"""The name that answers have for the model."""


@dataclass
class ChatCall:
    """A request that has arrived."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: dict[str, Any]


class Exchange:
    """A connection on which a request has arrived: what a scripted answer writes to."""

    def __init__(self, handler: http.server.BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        self._handler = handler
        self.body = body

    def head(self, status: int, content_type: str, **headers: str) -> None:
        """Send the head of the response; ``_`` in the name of a header stands for ``-``."""
        self._handler.send_response(status)
        self._handler.send_header("content-type", content_type)
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.send_header("connection", "close")
        self._handler.end_headers()

    def write(self, content: bytes) -> None:
        """Send a piece of the body at once."""
        self._handler.wfile.write(content)
        self._handler.wfile.flush()

    def json(self, value: object, status: int = 200, **headers: str) -> None:
        """Send a whole response."""
        self.head(status, "application/json", **headers)
        self.write(json.dumps(value).encode())

    def event(self, value: object) -> None:
        """Send one event of a stream."""
        self.write(b"data: " + json.dumps(value).encode() + b"\n\n")

    def wait_until_closed(self) -> None:
        """Wait until the other side closes the connection."""
        self._handler.connection.settimeout(SECONDS)
        with contextlib.suppress(ConnectionError):
            self._handler.connection.recv(1)


def completion(text: str = "a forwarded answer", **changes: Any) -> dict[str, Any]:
    """A whole answer."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": SERVED,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        **changes,
    }


def chunk(text: str, finish_reason: str | None = None) -> dict[str, Any]:
    """One event of a streamed answer."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": SERVED, "choices": [choice]}


def answer(exchange: Exchange) -> None:
    """The usual answer: whole or streamed, as the request says."""
    if not exchange.body.get("stream"):
        exchange.json(completion())
        return
    exchange.head(200, "text/event-stream")
    for piece in (chunk("a forwarded"), chunk(" answer", "stop")):
        exchange.event(piece)
    exchange.write(b"data: [DONE]\n\n")


@dataclass
class ChatHost:
    """The host; a context manager that runs it in a thread."""

    script: list[Callable[[Exchange], None]] = field(default_factory=list)
    """Answers to the next requests; then the usual one."""
    calls: list[ChatCall] = field(default_factory=list)

    def __enter__(self) -> Self:
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                body = json.loads(content)
                headers = {name.lower(): value for name, value in self.headers.items()}
                host.calls.append(ChatCall(self.path, headers, body))
                self.close_connection = True
                (host.script.pop(0) if host.script else answer)(Exchange(self, body))

            def log_message(self, *_args: object) -> None:
                """Nothing is printed."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self.base_url = f"http://{self.address}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
