"""Streams: how they begin and end, and what a page too many gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from ftpipe.ui import streams
from ftpipe.ui.streams import Event, Streams


class Counted:
    """A page whose stream ends with its second look, and what was open meanwhile."""

    def __init__(self) -> None:
        self.streams = Streams()
        self.looks: list[list[Event]] = [[Event("a\nb")], [Event("end", "done", is_last=True)]]
        self.log: list[str] = []
        self.client = TestClient(Starlette(routes=[Route("/", self.get)]))

    def get(self, request: Request) -> Response:
        return self.streams.response(request, self.produce, while_open=self.opened(), seconds=0.01)

    def produce(self) -> list[Event]:
        self.log.append("look")
        return self.looks.pop(0)

    @contextmanager
    def opened(self) -> Iterator[None]:
        self.log.append("open")
        yield
        self.log.append("close")


def test_stream_is_open_from_its_begin_to_its_end() -> None:
    """The time until the next connection comes with an event: htmx ignores it without one."""
    page = Counted()
    answer = page.client.get("/")
    assert answer.text == "event: connected\nretry: 2000\ndata: \n\ndata: a\ndata: b\n\nevent: done\ndata: end\n\n"
    assert page.log == ["open", "look", "look", "close"]


def test_stream_too_many_is_told_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_STREAMS", 0)
    page = Counted()
    assert page.client.get("/").text == "event: busy\nretry: 30000\ndata: \n\n"
    assert page.log == []


def test_streams_end_with_the_server() -> None:
    page = Counted()
    page.looks = [[], []]
    page.streams.close()
    assert page.client.get("/").text.endswith("data: \n\n")
    assert page.log == ["open", "look", "close"]
