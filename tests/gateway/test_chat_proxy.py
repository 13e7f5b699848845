"""Forwarded chats: fields, streams, errors, limits and disconnects, with a real host and OpenAI's own client."""

from __future__ import annotations

import socket
import threading
from typing import Any

import httpx2
import openai
import pytest

from ftpipe.gateway import chat_proxy
from tests.fakes.chat_host import SECONDS, SERVED, ChatHost, Exchange, chunk, completion
from tests.gateway.conftest import KEY, OLD, MakeServer
from tests.gateway.live_server import LiveServer

MESSAGES: Any = [{"role": "user", "content": "hi"}]


def post(server: LiveServer, **fields: Any) -> httpx2.Response:
    """Send a chat as plain JSON."""
    url = f"http://127.0.0.1:{server.address[1]}/v1/chat/completions"
    return httpx2.post(url, json={"model": OLD, "messages": MESSAGES, **fields}, timeout=SECONDS)


def test_fields_and_headers_are_passed_as_sent(make_server: MakeServer, host: ChatHost) -> None:
    """Also fields that this server's own models do not have; of the client's headers none."""
    fields = {"temperature": 0.25, "functions": [{"name": "f"}], "new_field": {"a": [1, None, "ü"]}, "stream": False}
    url = f"http://127.0.0.1:{make_server().address[1]}/v1/chat/completions"
    headers = {"authorization": "Bearer of-the-client", "openai-organization": "theirs", "x-forwarded-for": "10.0.0.1"}
    response = httpx2.post(url, json={"model": OLD, "messages": MESSAGES, **fields}, headers=headers)
    assert response.json() == completion(model=OLD)
    sent = host.calls[0]
    assert sent.body == {"model": SERVED, "messages": MESSAGES, **fields}
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert not {"openai-organization", "x-forwarded-for"} & sent.headers.keys()


def test_stream_is_passed_piece_by_piece(make_server: MakeServer, host: ChatHost) -> None:
    """The first piece is there before the host has computed the second one."""
    has_first = threading.Event()

    def stepped(exchange: Exchange) -> None:
        exchange.head(200, "text/event-stream")
        exchange.write(b": keep-alive\n\n")
        exchange.event(chunk("one"))
        assert has_first.wait(SECONDS)
        exchange.event({**chunk(" two", "stop"), "usage": {"total_tokens": 5}})
        exchange.write(b"data: [DONE]\r\n\r\n")

    host.script = [stepped]
    stream = (
        make_server()
        .client()
        .chat.completions.create(model=OLD, messages=MESSAGES, stream=True, stream_options={"include_usage": True})
    )
    pieces = []
    for piece in stream:
        pieces.append(piece)
        has_first.set()
    assert [piece.choices[0].delta.content for piece in pieces] == ["one", " two"]
    assert {piece.model for piece in pieces} == {OLD}
    assert pieces[-1].usage is not None and pieces[-1].usage.total_tokens == 5
    assert host.calls[0].body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("streamed", [False, True])
def test_disconnect_of_client_ends_call_at_host(make_server: MakeServer, host: ChatHost, streamed: bool) -> None:
    """While the host computes, before or within its answer; the next client gets the slot."""
    has_arrived, is_closed = threading.Event(), threading.Event()

    def endless(exchange: Exchange) -> None:
        if streamed:
            exchange.head(200, "text/event-stream")
            exchange.event(chunk("one"))
        has_arrived.set()
        exchange.wait_until_closed()
        is_closed.set()

    host.script = [endless]
    server = make_server(max_forwarded_requests=1)
    with socket.create_connection(server.address, timeout=SECONDS) as connection:
        body = f'{{"model": "{OLD}", "messages": [], "stream": {str(streamed).lower()}}}'
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        assert has_arrived.wait(SECONDS)
        if streamed:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    assert is_closed.wait(SECONDS)
    assert post(server).status_code == 200


@pytest.mark.parametrize("streamed", [False, True])
def test_stopping_server_ends_forwarded_chat(make_server: MakeServer, host: ChatHost, streamed: bool) -> None:
    """The client gets an error, also in a stream that has begun."""
    has_arrived = threading.Event()

    def endless(exchange: Exchange) -> None:
        has_arrived.set()
        if streamed:
            exchange.head(200, "text/event-stream")
            exchange.event(chunk("one"))
        exchange.wait_until_closed()

    host.script = [endless]
    server = make_server()

    def stop() -> None:
        assert has_arrived.wait(SECONDS)
        server.context.active_requests.cancel_all()

    stopping = threading.Thread(target=stop)
    url = f"http://127.0.0.1:{server.address[1]}/v1/chat/completions"
    body = {"model": OLD, "messages": MESSAGES, "stream": streamed}
    if not streamed:
        stopping.start()
    with httpx2.stream("POST", url, json=body, timeout=SECONDS) as response:
        lines = response.iter_lines()
        if streamed:
            assert "one" in next(lines)
            stopping.start()
        rest = "".join(lines)
    stopping.join()
    assert response.status_code == (200 if streamed else 503)
    assert "server_stopping" in rest


@pytest.mark.parametrize(
    ("status", "body", "expected", "code"),
    [
        (400, {"error": {"message": "too long", "code": "context_length_exceeded", "param": "messages"}}, 400,
         "context_length_exceeded"),
        (401, {"error": {"message": "wrong key"}}, 502, "model_unavailable"),
        (402, {"error": {"message": "pay"}}, 429, "insufficient_quota"),
        (403, {"message": "no"}, 502, "model_unavailable"),
        (404, {"error": {"message": "gone"}}, 502, "model_unavailable"),
        (422, {"error": "a word"}, 422, None),
        (429, {"error": {"message": "slow down"}}, 429, "rate_limit_exceeded"),
        (503, {"error": {"code": "DEPLOYMENT_SCALING_UP", "message": "cold"}}, 503, "DEPLOYMENT_SCALING_UP"),
        (500, ["no object"], 502, "model_unavailable"),
        (418, None, 502, "model_unavailable"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("streamed", [False, True])
def test_refusal_of_host_is_openai_error(
    make_server: MakeServer, host: ChatHost, status: int, body: Any, expected: int, code: str | None, streamed: bool
) -> None:
    host.script = [lambda exchange: exchange.json(body, status, retry_after="7")]
    response = post(make_server(), stream=streamed)
    assert response.status_code == expected
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    if expected in (429, 503):
        assert response.headers["retry-after"] == "7"


def test_error_shows_neither_key_nor_address_nor_model(make_server: MakeServer, host: ChatHost) -> None:
    message = f"key {KEY} at http://{host.address}/v1/chat of {host.address}: {SERVED} \x1b[31m refuses "
    message += f"{KEY.swapcase()} for {SERVED.swapcase()} " + "x" * 5000
    host.script = [
        lambda exchange: exchange.json({"error": {"message": message, "code": KEY, "param": SERVED}}, 400),
    ]
    text = post(make_server()).text
    for hidden in (KEY, host.address, SERVED, "\\u001b"):
        assert hidden.lower() not in text.lower()
    assert OLD in text
    assert len(text) < 1000


def redirect(exchange: Exchange) -> None:
    exchange.head(307, "text/plain", location="http://127.0.0.1:1/v1/chat/completions")


def drop(exchange: Exchange) -> None:
    """Close the connection without an answer."""


def garbage(exchange: Exchange) -> None:
    exchange.head(200, "application/json")
    exchange.write(b"[" * 1000)


def page(exchange: Exchange) -> None:
    exchange.head(200, "text/html")
    exchange.write(b"<html>")


def compressed(exchange: Exchange) -> None:
    exchange.head(200, "application/json", content_encoding="gzip")
    exchange.write(b"\x1f\x8b")


def cut(exchange: Exchange) -> None:
    exchange.head(200, "application/json", content_length="1000")
    exchange.write(b'{"choices": [')


@pytest.mark.parametrize("broken", [redirect, drop, garbage, page, compressed, cut])
@pytest.mark.parametrize("streamed", [False, True])
def test_broken_answer_of_host_is_502(make_server: MakeServer, host: ChatHost, broken: Any, streamed: bool) -> None:
    """A redirect is not followed: its target would get the key."""
    host.script = [broken]
    response = post(make_server(), stream=streamed)
    assert (response.status_code, response.json()["error"]["type"]) == (502, "server_error")
    assert len(host.calls) == 1


@pytest.mark.parametrize(
    "end",
    [
        lambda exchange: None,
        lambda exchange: exchange.write(b"data: {no json\n\n"),
        lambda exchange: exchange.event({"error": {"message": f"overloaded {KEY}"}}),
    ],
    ids=["early end", "no JSON", "error event"],
)
def test_stream_that_breaks_ends_with_error_event(make_server: MakeServer, host: ChatHost, end: Any) -> None:
    """OpenAI's client raises it; the pieces before it have arrived."""

    def broken(exchange: Exchange) -> None:
        exchange.head(200, "text/event-stream")
        exchange.event(chunk("one"))
        end(exchange)

    host.script = [broken]
    stream = make_server().client().chat.completions.create(model=OLD, messages=MESSAGES, stream=True)
    pieces: list[str | None] = []
    with pytest.raises(openai.APIError) as raised:
        pieces.extend(piece.choices[0].delta.content for piece in stream)
    assert KEY not in str(raised.value)


def test_stream_without_end_mark_gets_one(make_server: MakeServer, host: ChatHost) -> None:
    """If its last piece says why it ended, it is complete."""

    def complete(exchange: Exchange) -> None:
        exchange.head(200, "text/event-stream")
        exchange.event(chunk("one", "stop"))

    host.script = [complete]
    assert post(make_server(), stream=True).text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("streamed", [False, True])
def test_answer_over_limit_is_cut_off(
    make_server: MakeServer, host: ChatHost, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    monkeypatch.setattr(chat_proxy, "MAX_ANSWER_BYTES", 10_000)
    monkeypatch.setattr(chat_proxy, "MAX_EVENT_BYTES", 5_000)

    def large(exchange: Exchange) -> None:
        if streamed:
            exchange.head(200, "text/event-stream")
            exchange.event(chunk("x" * 6_000))
        else:
            exchange.json(completion("x" * 11_000))

    host.script = [large]
    response = post(make_server(), stream=streamed)
    assert "model_unavailable" in response.text
    assert len(response.content) < 1000


def test_host_that_does_not_answer_in_time_is_504(
    make_server: MakeServer, host: ChatHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_proxy, "MAX_CHAT_SECONDS", 0.2)
    host.script = [lambda exchange: exchange.wait_until_closed()]
    response = post(make_server())
    assert (response.status_code, response.json()["error"]["code"]) == (504, "model_timeout")


def test_host_that_is_gone_is_502(make_server: MakeServer, host: ChatHost) -> None:
    server = make_server()
    host.__exit__()
    response = post(server)
    assert response.status_code == 502
    assert host.address not in response.text
    host.__enter__()


def test_forwarded_chat_is_not_forwarded_again(make_server: MakeServer, host: ChatHost) -> None:
    """Two servers with routes to each other would ask each other for ever."""
    url = f"http://127.0.0.1:{make_server().address[1]}/v1/chat/completions"
    first = httpx2.post(url, json={"model": OLD, "messages": MESSAGES})
    again = {"x-ftpipe-forwarded": host.calls[0].headers["x-ftpipe-forwarded"]}
    response = httpx2.post(url, json={"model": OLD, "messages": MESSAGES}, headers=again)
    assert (first.status_code, response.status_code) == (200, 400)
    assert response.json()["error"]["code"] == "forwarding_loop"
    assert len(host.calls) == 1


def test_forwarded_chats_have_a_bounded_queue(make_server: MakeServer, host: ChatHost) -> None:
    """Of their own: while it is full, a chat with a model of this server is answered."""
    has_arrived, may_go_on = threading.Event(), threading.Event()

    def held(exchange: Exchange) -> None:
        has_arrived.set()
        assert may_go_on.wait(SECONDS)
        exchange.json(completion())

    host.script = [held]
    server = make_server(max_forwarded_requests=1, max_queued_requests=0)
    results: list[int] = []
    first = threading.Thread(target=lambda: results.append(post(server).status_code))
    first.start()
    assert has_arrived.wait(SECONDS)
    refused = post(server)
    local = post(server, model="gpt-4o-mini")
    may_go_on.set()
    first.join()
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert (local.status_code, results) == (200, [200])


def test_stream_that_is_no_boolean_is_400(make_server: MakeServer, host: ChatHost) -> None:
    response = post(make_server(), stream="yes")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "stream")
    assert host.calls == []
