"""Chats whose client disconnects, through a real socket, with an engine that waits before each token."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from ftpipe.server.http import create_app
from ftpipe.server.services import ServerContext, build_context
from ftpipe.server.settings import ServeSettings
from ftpipe.server.timeouts import header_timeout_protocol
from tests.server.fakes import FakeBaseModels, FakeEngine, FakeValidation

SECONDS = 60
"""The longest wait for an event; only a failing test takes it."""
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


class SteppedEngine(FakeEngine):
    """Says a word each time that it is let; counts its words."""

    def __init__(self) -> None:
        super().__init__(text=" ".join(["word"] * 1000), before_token=self._wait)
        self.words = 0
        self.reached_token = threading.Semaphore(0)
        self.may_go_on = threading.Semaphore(0)

    def _wait(self) -> None:
        self.words += 1
        self.reached_token.release()
        assert self.may_go_on.acquire(timeout=10 * SECONDS)  # longer than all waits of a test together


class Harness:
    """A server that listens, with one slot, and raw connections to it."""

    def __init__(self, tmp_path: Path, **changes: Any) -> None:
        self.engine = SteppedEngine()
        settings = ServeSettings(data_dir=tmp_path / "data", **{"max_num_seqs": 1, **changes})
        self.context: ServerContext = build_context(
            settings, engine=self.engine, base_models=FakeBaseModels(), start_validation=FakeValidation
        )
        config = uvicorn.Config(
            create_app(self.context), log_config=None, lifespan="on", http=header_timeout_protocol(20, 20)
        )
        self.server = uvicorn.Server(config)
        self.listening = socket.socket()
        self.listening.bind(("127.0.0.1", 0))
        self.listening.listen()
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listening]})
        self.thread.start()

    def connect(self, **body: Any) -> socket.socket:
        """A connection that has sent a chat."""
        connection = socket.create_connection(self.listening.getsockname(), timeout=SECONDS)
        self.send(connection, **body)
        return connection

    @staticmethod
    def send(connection: socket.socket, **body: Any) -> None:
        """Send a chat."""
        chat = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], **body}
        content = json.dumps(chat).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)

    def wait_for_token(self) -> None:
        """Wait until the engine is about to say its next word."""
        assert self.engine.reached_token.acquire(timeout=SECONDS)

    def wait_until_open(self, count: int) -> None:
        """Wait until the server works on so many requests, those that wait included."""
        deadline = time.monotonic() + SECONDS
        while sum(not token.is_cancelled for token in self.context.active_requests.tokens()) != count:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def wait_until_cancelled(self) -> None:
        """Wait until the server has noticed the disconnect, while the engine stands still."""
        cancelled = threading.Event()
        for token in self.context.active_requests.tokens():
            token.on_cancel(cancelled.set)
        assert cancelled.wait(SECONDS)

    def stop(self) -> None:
        """Stop the server."""
        self.engine.may_go_on.release(10_000)
        self.server.should_exit = True
        self.thread.join()
        self.listening.close()


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    """A server with one slot and one place to wait."""
    harness = Harness(tmp_path, max_queued_requests=1)
    yield harness
    harness.stop()


@pytest.mark.parametrize(
    "body",
    [{}, {"n": 20}, {"stream": True}, {"stream": True, "tools": TOOLS}, {"stream": True, "n": 20}],
    ids=["whole", "n=20", "stream", "stream with tools", "stream of 20"],
)
def test_disconnect_ends_chat_before_next_token(harness: Harness, body: dict[str, Any]) -> None:
    with harness.connect(**body):
        harness.wait_for_token()
    harness.wait_until_cancelled()
    words = harness.engine.words
    harness.engine.may_go_on.release(10_000)
    assert harness.engine.closed.wait(SECONDS)
    assert harness.context.active_requests.wait_until_idle(SECONDS)
    assert harness.engine.words == words


def test_disconnect_is_noticed_behind_pipelined_request(harness: Harness) -> None:
    """A second request on the same connection, sent before the first is answered, does not hide the disconnect."""
    with harness.connect() as connection:
        harness.wait_for_token()
        harness.send(connection)
    harness.wait_until_cancelled()


def test_disconnect_leaves_queue(tmp_path: Path) -> None:
    """200 clients that leave while they wait do not delay the next one.

    Nine may wait, because a client that leaves is noticed a moment before its place is free.
    """
    harness = Harness(tmp_path, max_queued_requests=9)
    try:
        with harness.connect(max_tokens=1) as first:
            harness.wait_for_token()
            for _ in range(200):
                with harness.connect():
                    harness.wait_until_open(2)
                harness.wait_until_open(1)
            with harness.connect(max_tokens=1) as last:
                harness.engine.may_go_on.release(10_000)
                assert first.recv(4096).startswith(b"HTTP/1.1 200")
                assert last.recv(4096).startswith(b"HTTP/1.1 200")
    finally:
        harness.stop()


def test_queue_full_is_rate_limit_error(harness: Harness) -> None:
    """429 in OpenAI's format, with the time after which to try again. One chat runs and one waits, in any order."""
    with (
        harness.connect(max_tokens=1) as one,
        harness.connect(max_tokens=1) as two,
        harness.connect(max_tokens=1) as three,
    ):
        answered, _, _ = select.select([one, two, three], [], [], SECONDS)
        assert len(answered) == 1
        answer = answered[0].recv(4096)
        while b"}}" not in answer:
            answer += answered[0].recv(4096)
    assert answer.startswith(b"HTTP/1.1 429")
    assert b"retry-after: " in answer
    assert b'"code":"rate_limit_exceeded"' in answer


@pytest.mark.parametrize("streamed", [False, True])
def test_stopping_server_cancels_chat_before_next_token(harness: Harness, streamed: bool) -> None:
    """The client gets an error, also in a stream that has begun."""
    with harness.connect(stream=streamed) as connection:
        if streamed:
            harness.engine.may_go_on.release()
            harness.wait_for_token()
        harness.wait_for_token()
        words = harness.engine.words
        harness.context.active_requests.cancel_all()
        harness.engine.may_go_on.release(10_000)
        answer = b""
        while b"}}" not in answer:
            answer += connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 200" if streamed else b"HTTP/1.1 503")
    assert b"server_stopping" in answer
    assert harness.context.active_requests.wait_until_idle(SECONDS)
    assert harness.engine.words == words


def test_slow_load_of_one_model_does_not_stop_chat_with_another(harness: Harness) -> None:
    """A chat that waits for its model has no slot; when it is loaded, the chat is answered."""
    loading: Future[None] = Future()
    loading.set_running_or_notify_cancel()
    harness.engine.loads["org/name"] = loading
    harness.engine.may_go_on.release(10_000)
    with harness.connect(model="org/name", max_tokens=1) as waiting:
        harness.wait_until_open(1)
        with harness.connect(max_tokens=1) as other:
            assert other.recv(4096).startswith(b"HTTP/1.1 200")
        loading.set_result(None)
        assert waiting.recv(4096).startswith(b"HTTP/1.1 200")


def test_load_that_takes_too_long_is_503(tmp_path: Path) -> None:
    harness = Harness(tmp_path, max_load_seconds=0.01)
    try:
        loading: Future[None] = Future()
        loading.set_running_or_notify_cancel()
        harness.engine.loads["org/name"] = loading
        with harness.connect(model="org/name") as connection:
            answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: " in answer
    finally:
        harness.stop()
