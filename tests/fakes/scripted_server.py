"""A local HTTP server whose every response can be scripted: what the fake hosts are built on.

A route is a method and a path whose ids are written ``{id}``. Each call takes one fault from its script; for ``None``
the call succeeds. ``always`` sets what happens when the script is empty.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import struct
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Self


@dataclass(frozen=True)
class Fault:
    """What happens to one call."""

    executed: bool = True
    """Whether the call has its effect."""
    status: int | None = None
    """HTTP status instead of 200; with a ``code`` the body is an error object."""
    code: str | None = None
    message: str = "scripted"
    body: bytes | None = None
    """Bytes instead of the real body."""
    headers: tuple[tuple[str, str], ...] = ()
    then: Literal["answer", "drop", "reset", "drip", "stall", "cut"] = "answer"
    """``cut`` announces more bytes than it sends."""
    delay: float = 0.0
    """Seconds to wait before the effect."""


LOST = Fault(then="drop")
"""Executes the call, then closes the connection without a response."""
RESET = Fault(then="reset")
"""Executes the call, then resets the connection."""
NEVER = Fault(executed=False, then="drop")
"""Closes the connection without executing the call."""


def refusal(status: int, code: str | None = None, message: str = "scripted", *, executed: bool = False) -> Fault:
    """An error object."""
    return Fault(executed=executed, status=status, code=code, message=message)


def busy(**headers: str) -> Fault:
    """A 429 with these headers; ``_`` stands for ``-``."""
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Fault(executed=False, status=429, code="rate_limit_exceeded", message="slow down", headers=named)


class RejectedRequest(Exception):
    """The host refuses the request, without a scripted fault."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class Request:
    """A request as it arrived."""

    route: str
    """``POST /files/{id}/preprocess``."""
    ids: list[str]
    path: str
    query: dict[str, str]
    body: bytes
    headers: dict[str, str]
    """Names in lower case."""

    @property
    def fields(self) -> dict[str, Any]:
        """The JSON object of the body, or the fields of a form."""
        kind = self.headers.get("content-type", "")
        if kind.startswith("multipart/"):
            return form_of(self.body, kind)
        return dict(json.loads(self.body)) if self.body else {}


@dataclass(frozen=True)
class Answer:
    """A response that is not 200 with JSON."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class ServerState:
    """What every fake host counts."""

    calls: Counter[str] = field(default_factory=Counter)
    requests: list[dict[str, str]] = field(default_factory=list)
    """Headers of every request, names in lower case."""
    key: str | None = None
    """The only key that is accepted; ``None`` accepts any."""
    skew: float = 0.0
    """Seconds by which this host's clock is ahead."""


class ScriptedServer(ServerState):
    """The server; a context manager that runs it in a thread on loopback."""

    prefix = ""
    """What all paths begin with; not part of routes."""

    def __init__(self, **quirks: Any) -> None:
        port = quirks.pop("port", 0)
        super().__init__(**quirks)
        self.lock = threading.RLock()
        self.scripts: dict[str, list[Fault | None]] = {}
        self.defaults: dict[str, Fault] = {}
        self.before: Callable[[str], None] = lambda _route: None
        """Called when a request has arrived and before its effect."""
        self.after: Callable[[str], None] = lambda _route: None
        """Called after the effect and before the response."""
        host = self

        class Bound(RequestHandler):
            state = host

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Ignore clients that are killed: the tests kill them."""

        self._server = Server(("127.0.0.1", port), Bound)
        self.port: int = self._server.server_address[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self.base_url = f"{self.origin}/v1"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def refuse_connections(self) -> None:
        """Stop listening; open connections continue."""
        self._server.socket.close()
        time.sleep(0.1)  # the loop's poll still holds the socket for 50 ms

    def script(self, route: str, *faults: Fault | None) -> None:
        """Script the next calls of a route."""
        self.scripts.setdefault(route, []).extend(faults)

    def forget(self, route: str) -> None:
        """Remove the rest of a route's script: how many calls it affected depends on what was in flight."""
        self.scripts.pop(route, None)

    def always(self, route: str, fault: Fault | None) -> None:
        """Set what happens to a route when its script is used up; ``None`` ends that."""
        if fault is None:
            self.defaults.pop(route, None)
        else:
            self.defaults[route] = fault

    def next_fault(self, route: str) -> Fault | None:
        """Count the call and take its fault from the script."""
        with self.lock:
            self.calls[route] += 1
            script = self.scripts.get(route)
            return script.pop(0) if script else self.defaults.get(route)

    def record(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> None:
        """Keep what was requested, before it is executed."""
        self.requests.append(headers)

    def now(self) -> int:
        """UTC Unix seconds by this host's clock."""
        return int(time.time() + self.skew)

    def find_route(self, method: str, path: str) -> tuple[str, list[str]]:
        """The route of a path, and its ids."""
        raise NotImplementedError

    def execute(self, request: Request) -> Any:
        """Execute a call; returns its real response: JSON, bytes, or an ``Answer``.

        Raises:
            RejectedRequest: The host refuses it.
        """
        raise NotImplementedError

    def is_authorized(self, request: Request) -> bool:
        """Whether the request has the key."""
        return self.key is None or request.headers.get("authorization") == f"Bearer {self.key}"

    def error_body(self, message: str, code: str | None) -> bytes:
        """An error object in the form of this host."""
        return error_of(message, code)


class RequestHandler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: ScriptedServer

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The Date header, by this host's clock."""
        return super().date_time_string(timestamp or time.time() + self.state.skew)

    def serve(self) -> None:
        """Read a request, execute it, and apply the scripted fault."""
        state = self.state
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        url = urllib.parse.urlsplit(self.path)
        path = url.path.removeprefix(state.prefix)
        route, ids = state.find_route(self.command, path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        state.record(self.command, self.path, body, headers)
        fault = state.next_fault(route) or Fault()
        state.before(route)
        time.sleep(fault.delay)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        answer = self.outcome(fault, Request(route, ids, path, query, body, headers))
        state.after(route)
        self.reply(fault, answer)

    do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = serve

    def outcome(self, fault: Fault, request: Request) -> Answer:
        """Execute the request; returns the real response, with what the fault replaces."""
        state = self.state
        if not state.is_authorized(request):
            return Answer(401, state.error_body("Incorrect API key provided", "invalid_api_key"))
        real: Any = {}
        if fault.executed:
            try:
                real = state.execute(request)
            except RejectedRequest as no:
                real = Answer(no.status, state.error_body(no.message, no.code))
        if fault.status is not None and fault.status >= 300:
            real = Answer(fault.status, state.error_body(fault.message, fault.code))
        elif isinstance(real, bytes):
            real = Answer(body=real)
        elif not isinstance(real, Answer):
            real = Answer(body=json.dumps(real, default=str).encode())
        body = fault.body if fault.body is not None else real.body
        return Answer(fault.status or real.status, body, (*real.headers, *fault.headers))

    def reply(self, fault: Fault, answer: Answer) -> None:
        """Send the response, or what the fault turns it into."""
        self.close_connection = fault.then != "answer"
        if fault.then == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault.then in ("drop", "reset"):
            self.connection.close()
            return
        self.send_response(answer.status)
        is_stream = answer.body.startswith(b"data: ")
        self.send_header("Content-Type", "text/event-stream" if is_stream else "application/json")
        self.send_header("Content-Length", str(len(answer.body) + (64 if fault.then == "cut" else 0)))
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        for chunk in self.chunks(fault, answer.body):
            self.wfile.write(chunk)

    def chunks(self, fault: Fault, body: bytes) -> Iterator[bytes]:
        """The body, as fast as the fault allows."""
        if fault.then == "drip":
            for index in range(len(body)):
                yield body[index : index + 1]
                time.sleep(0.05)
        elif fault.then == "stall":
            yield body[: len(body) // 2]
            with contextlib.suppress(OSError):
                self.connection.settimeout(60)
                self.rfile.read(1)
        else:
            yield body


def error_of(message: str, code: str | None) -> bytes:
    """An error object in the form of the API."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return json.dumps({"error": error}).encode()


def form_of(body: bytes, content_type: str) -> dict[str, Any]:
    """The fields of a multipart body: text, or (file name, bytes)."""
    boundary = b"--" + content_type.split("boundary=", 1)[1].strip('"').encode()
    fields: dict[str, Any] = {}
    for piece in body.split(boundary)[1:-1]:
        head, _, data = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        filename = re.search(rb'filename="([^"]*)"', head)
        value = data[:-2]
        if name:
            fields[name[1].decode()] = (filename[1].decode(), value) if filename else value.decode()
    return fields
