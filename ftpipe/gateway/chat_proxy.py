"""Forwards chats to another host: whole and streamed, within limits, with errors that show neither key nor address."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar
from urllib.parse import urlsplit

import httpx2
import orjson

from ftpipe import __version__
from ftpipe.gateway.upstream_errors import UpstreamMessages, invalid_answer, timed_out, unreachable
from ftpipe.providers.client import CONNECT_SECONDS, ChatAddress
from ftpipe.server.http.chat_endpoint import BY_ROUTE, DONE, FORWARDED_HEADER
from ftpipe.server.protocol import ApiError

log = logging.getLogger("ftpipe.server.gateway")

MAX_CHAT_SECONDS = 600.0
"""Maximum time of one chat, from the request to the last byte of the answer."""
MAX_SILENCE_SECONDS = 300.0
"""Maximum wait for the next bytes of an answer; a host may compute a whole answer before it sends the first one."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Maximum size of an answer, whole or streamed."""
MAX_EVENT_BYTES = 4 * 1024 * 1024
"""Maximum size of one event of a streamed answer."""
MAX_ERROR_BYTES = 64 * 1024
"""What is read of an error; the rest is not needed for its message."""


class ChatProxy:
    """Forwards the chats with one model to its host.

    Args:
        address: Where the chats go, with the key and the model's name there.
        client: Makes the requests; shared by the proxies of all hosts.

    Attributes:
        forwarded_by: Tells another server of ftpipe why it gets the chat.
    """

    forwarded_by: ClassVar[str] = BY_ROUTE

    def __init__(self, address: ChatAddress, client: httpx2.AsyncClient) -> None:
        self._address = address
        self._client = client

    async def complete(self, body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        """The whole answer; the model's name in it is the one that the client sent."""
        messages = self.messages(name)
        content = bytearray()
        async with self._send(body, messages) as pieces:
            async for piece in pieces:
                content += piece
        answer = _object(bytes(content))
        if answer is None or not isinstance(answer.get("choices"), list):
            raise invalid_answer(messages)
        return self.public(answer, name)

    async def stream(self, body: Mapping[str, Any], name: str) -> AsyncIterator[bytes]:
        """The events of the answer; when this returns, the host has accepted the chat."""
        messages = self.messages(name)
        events = self._events(body, name, messages)
        await anext(events)  # the head of the response: a refusal is raised here
        return events

    async def _events(self, body: Mapping[str, Any], name: str, messages: UpstreamMessages) -> AsyncIterator[bytes]:
        """First an empty piece, when the host has accepted the chat, then each event of the answer.

        An error in the middle becomes an event, as OpenAI sends it: the status of the response was sent before.
        """
        is_accepted = False
        try:
            async with self._send(body, messages, "text/event-stream") as pieces:
                is_accepted = True
                yield b""
                has_ended = False
                async for data in _event_data(pieces, messages):
                    if data == b"[DONE]":
                        yield DONE
                        return
                    chunk = _object(data)
                    if chunk is None:
                        raise invalid_answer(messages)
                    if chunk.get("error"):
                        raise messages.error_of(500, chunk)
                    has_ended = has_ended or _has_finish_reason(chunk)
                    yield b"data: " + orjson.dumps(self.public(chunk, name)) + b"\n\n"
                if not has_ended:
                    raise invalid_answer(messages)
                yield DONE
        except ApiError as exc:
            if not is_accepted:
                raise
            yield b"data: " + orjson.dumps(exc.body) + b"\n\n"

    def public(self, answer: Mapping[str, Any], name: str) -> dict[str, Any]:
        """An answer, or a piece of a streamed one, as the client gets it."""
        return {**answer, "model": name}

    def messages(self, name: str) -> UpstreamMessages:
        """What errors of the host say to the client."""
        secrets = (self._address.key, urlsplit(self._address.url).netloc)
        return UpstreamMessages(name=name, model=self._address.model, secrets=secrets)

    @asynccontextmanager
    async def _send(
        self, body: Mapping[str, Any], messages: UpstreamMessages, media_type: str = "application/json"
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The pieces of the answer to a chat that the host has accepted.

        Afterwards the connection is closed, unless the answer was read to its end.
        """
        end_at = asyncio.get_running_loop().time() + MAX_CHAT_SECONDS
        headers = {
            **self._address.headers,
            "user-agent": f"ftpipe/{__version__}",
            "content-type": "application/json",
            "accept-encoding": "identity",  # a small compressed answer could become a huge one
            FORWARDED_HEADER: self.forwarded_by,
        }
        request = self._client.build_request("POST", self._address.url, content=orjson.dumps(body), headers=headers)
        try:
            async with asyncio.timeout_at(end_at):
                response = await self._client.send(request, stream=True)
            try:
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise invalid_answer(messages)
                if not response.is_success:
                    raise await _refusal(response, messages, end_at)
                if not response.headers.get("content-type", "").startswith(media_type):
                    raise invalid_answer(messages)
                yield _pieces(response, MAX_ANSWER_BYTES, messages, end_at)
            finally:
                await response.aclose()
        except httpx2.ConnectError as exc:
            log.warning("the host of %r cannot be reached: %s: %s", messages.name, type(exc).__name__, exc)
            raise unreachable(messages, is_connected=False) from exc
        except (httpx2.TimeoutException, TimeoutError) as exc:
            log.warning("the host of %r did not answer in time: %s", messages.name, type(exc).__name__)
            raise timed_out(messages) from exc
        except httpx2.HTTPError as exc:
            log.warning("the host of %r cannot be reached: %s: %s", messages.name, type(exc).__name__, exc)
            raise unreachable(messages, is_connected=True) from exc


def new_client() -> httpx2.AsyncClient:
    """A client for all hosts, which follows no redirect: its target would get the key."""
    limits = httpx2.Timeout(MAX_SILENCE_SECONDS, connect=CONNECT_SECONDS)
    pool = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
    return httpx2.AsyncClient(follow_redirects=False, timeout=limits, limits=pool)


async def _refusal(response: httpx2.Response, messages: UpstreamMessages, end_at: float) -> ApiError:
    """The error for a response with another status than success."""
    content = bytearray()
    async for piece in _pieces(response, MAX_ERROR_BYTES, messages, end_at):
        content += piece
    error = messages.error_of(response.status_code, _object(bytes(content)), response.headers.get("retry-after", ""))
    log.warning("the host of %r answered %d", messages.name, response.status_code)
    return error


async def _pieces(
    response: httpx2.Response, max_bytes: int, messages: UpstreamMessages, end_at: float
) -> AsyncIterator[bytes]:
    """The bytes of a response as they arrive; the time for the consumer's own waits counts, too."""
    size = 0
    pieces = response.aiter_raw()
    while True:
        async with asyncio.timeout_at(end_at):
            piece = await anext(pieces, None)
        if piece is None:
            return
        size += len(piece)
        if size > max_bytes:
            raise invalid_answer(messages)
        yield piece


async def _event_data(pieces: AsyncIterator[bytes], messages: UpstreamMessages) -> AsyncIterator[bytes]:
    """The data of each server-sent event; chats have one line of data in an event and no other fields.

    Source: HTML Living Standard, 9.2.6 Interpreting an event stream, read 2026-11-29.
    """
    buffer = bytearray()
    async for piece in pieces:
        buffer += piece
        if len(buffer) > MAX_EVENT_BYTES:
            raise invalid_answer(messages)
        *lines, rest = bytes(buffer).replace(b"\r\n", b"\n").split(b"\n")
        buffer = bytearray(rest)
        for line in lines:
            if line.startswith(b"data:"):
                yield line.removeprefix(b"data:").strip()


def _object(content: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _has_finish_reason(chunk: Mapping[str, Any]) -> bool:
    choices = chunk.get("choices")
    return isinstance(choices, list) and any(isinstance(one, dict) and one.get("finish_reason") for one in choices)
