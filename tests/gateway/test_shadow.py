"""Shadow traffic with models at another host: mirrored there, and mirrored from there."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from ftpipe.records.evaluation import TokenPrice
from ftpipe.server.settings import ShadowPair, ShadowSettings
from ftpipe.server.storage import ShadowResultRow
from tests.fakes.chat_host import SERVED, ChatHost, Exchange, completion
from tests.gateway.conftest import OLD, MakeServer
from tests.gateway.live_server import LiveServer
from tests.server.fakes import TINY

NEW = "candidate"
FREE = TokenPrice(model="NEW", input=0.0, output=0.0)


def shadow(old: str, new: str, **changes: Any) -> ShadowSettings:
    """All chats are mirrored."""
    return ShadowSettings(pairs=(ShadowPair(old, new),), share=1.0, **changes)


def chat(server: LiveServer, model: str, text: str = "hi", *, stream: bool = False) -> None:
    """A chat through OpenAI's own client."""
    messages: Any = [{"role": "user", "content": text}]
    answer: Any = server.client().chat.completions.create(model=model, messages=messages, stream=stream)
    if stream:
        list(answer)


def results(server: LiveServer) -> list[ShadowResultRow]:
    """The comparisons, once all chats are compared."""
    assert server.context.shadow is not None
    assert server.context.shadow.wait_until_idle(20)
    with server.context.store.read() as tx:
        rows = [row for pair in tx.shadow.pairs() for row in tx.shadow.results(pair.id)]
        tx.session.expunge_all()
        return rows


def test_new_model_at_another_host_answers_mirrored_chats(make_server: MakeServer, host: ChatHost) -> None:
    """It gets the chat under its own name there, and nothing that says who wrote it."""
    host.script = [lambda exchange: exchange.json(completion("Hello there, friend."))]
    settings = shadow(TINY, NEW, price=FREE, max_cost=1.0)
    server = make_server({NEW: f"openai:{SERVED}"}, shadow=settings)
    chat(server, TINY)
    (row,) = results(server)
    assert (row.status, row.agrees, row.new_tokens) == ("answered", False, {"prompt": 3, "completion": 2})
    assert host.calls[0].body["model"] == SERVED
    assert host.calls[0].body["messages"] == [{"role": "user", "content": "hi"}]


def test_new_model_at_another_host_is_not_called_without_a_price(make_server: MakeServer, host: ChatHost) -> None:
    """It could cost money; the chats are counted."""
    server = make_server({NEW: f"openai:{SERVED}"}, shadow=shadow(TINY, NEW))
    chat(server, TINY)
    assert results(server) == []
    assert host.calls == []
    assert server.context.shadow is not None
    server.context.shadow.store_counts()
    with server.context.store.read() as tx:
        assert [pair.unpaid for pair in tx.shadow.pairs()] == [1]


def test_refusal_of_another_host_is_a_failure_without_costs(make_server: MakeServer, host: ChatHost) -> None:
    """The caller has got the old model's answer."""
    error = {"error": {"message": "no", "type": "invalid_request_error", "code": "bad_thing", "param": None}}
    host.script = [lambda exchange: exchange.json(error, 400)]
    price = TokenPrice(model="NEW", input=1.0, output=1.0)
    server = make_server({NEW: f"openai:{SERVED}"}, shadow=shadow(TINY, NEW, price=price, max_cost=1.0))
    chat(server, TINY)
    (row,) = results(server)
    assert (row.status, row.agrees, row.new_cost) == ("failed", False, 0.0)


@pytest.mark.parametrize("stream", [False, True])
def test_forwarded_chats_are_mirrored_to_a_model_of_this_server(
    make_server: MakeServer, host: ChatHost, stream: bool
) -> None:
    """The old name is at another host; whole and streamed answers are compared."""
    server = make_server(shadow=shadow(OLD, TINY, repeats_old=True))
    server.engine.text = "A forwarded answer"
    chat(server, OLD, stream=stream)
    (row,) = results(server)
    assert row.agrees
    assert row.old_seconds > 0
    assert row.repeat_agrees is None  # an old model that costs money is not asked twice
    assert len(host.calls) == 1


def test_old_name_with_a_route_to_this_server_is_mirrored(make_server: MakeServer) -> None:
    """The pair has the name that callers send."""
    server = make_server({OLD: f"local:{TINY}"}, shadow=shadow(OLD, TINY, repeats_old=True))
    chat(server, OLD)
    (row,) = results(server)
    assert (row.agrees, row.repeat_agrees) == (True, True)


def test_server_stops_while_another_host_does_not_answer(make_server: MakeServer, host: ChatHost) -> None:
    """The mirrored chat is given up; what it may have cost stays counted."""
    has_arrived = threading.Event()

    def hang(exchange: Exchange) -> None:
        has_arrived.set()
        exchange.wait_until_closed()

    host.script = [hang]
    price = TokenPrice(model="NEW", input=1.0, output=1.0)
    server = make_server({NEW: f"openai:{SERVED}"}, shadow=shadow(TINY, NEW, price=price, max_cost=1.0))
    chat(server, TINY)
    assert has_arrived.wait(20)
    server.context.active_requests.cancel_all()
    (row,) = results(server)
    assert (row.status, row.new_cost > 0) == ("sent", True)
