"""Shadow traffic through the real server: callers notice nothing, and the comparison is stored."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftpipe.errors import NotFoundError
from ftpipe.records.evaluation import TokenPrice
from ftpipe.server.protocol import ApiRequest
from ftpipe.server.settings import ShadowPair
from ftpipe.server.shadow.mirror import MAX_CHAT_BYTES, MAX_RUNNING, MAX_WAITING
from tests.server.shadow.conftest import NEW, OLD, MakeServer, PairedEngine

PRICE = TokenPrice(model="NEW", input=1_000_000.0, output=1_000_000.0)
"""One per token."""


def test_mirrored_chat_is_compared(make_server: MakeServer, engine: PairedEngine) -> None:
    """The caller gets the old model's answer, and the new model gets the same request."""
    engine.new.text = "Hello there, friend"
    server = make_server()
    answer = server.chat(temperature=0, max_tokens=5, seed=3, stop="x", user="anna", metadata={"a": "b"}, store=True)
    assert answer.json()["choices"][0]["message"]["content"] == "hello there friend"
    (row,) = server.results()
    assert (row.status, row.agrees, row.error) == ("answered", False, None)
    assert row.old_tokens == row.new_tokens == {"prompt": 7, "completion": 3}
    assert row.old_seconds > 0
    assert (row.new_seconds or 0) > 0
    assert row.texts is None
    old, new = engine.requests[0], engine.new.requests[0]
    # it takes no turn of its owner at the model, and can wait
    assert replace(old, owner="", priority="batch") == new
    (pair,) = server.pairs()
    assert (pair.owner, pair.old, pair.new, pair.chats, pair.dropped) == ("local", OLD, NEW, 1, 0)


@pytest.mark.parametrize("streamed", [False, True])
def test_mirrored_chat_agrees(make_server: MakeServer, engine: PairedEngine, streamed: bool) -> None:
    """Also if the caller's answer is streamed, and in whatever form the texts are equal."""
    engine.new.text = "Hello there  FRIEND."
    server = make_server()
    assert server.chat(stream=streamed).status_code == 200
    (row,) = server.results()
    assert row.agrees
    assert row.new_digest == row.old_digest


def test_mirrored_tool_calls_are_compared(make_server: MakeServer, engine: PairedEngine) -> None:
    """By name and arguments, although each call has an id of its own."""
    engine.text = '<tool_call>{"name":"f","arguments":{"a":1,"b":2}}</tool_call>'
    engine.new.text = '<tool_call>{"arguments":{"b":2,"a":1},"name":"f"}</tool_call>'
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    server = make_server()
    server.chat(tools=tools)
    server.settle()
    engine.new.text = '<tool_call>{"name":"f","arguments":{"a":1}}</tool_call>'
    server.chat("other", tools=tools)
    assert [row.agrees for row in server.results()] == [True, False]


def test_other_models_are_not_mirrored(make_server: MakeServer, engine: PairedEngine) -> None:
    """Neither are refused chats, and mirrored chats are not mirrored again."""
    server = make_server(pairs=(ShadowPair(OLD, NEW), ShadowPair(NEW, OLD)))
    server.chat(model="gpt-4o-mini")
    server.chat(temperature=9)
    engine.error = NotFoundError("no weights")
    assert server.chat().status_code == 503
    assert server.results() == []
    engine.error = None
    server.chat()
    assert len(server.results()) == 1


def test_caller_never_sees_an_error_of_the_new_model(make_server: MakeServer, engine: PairedEngine) -> None:
    """It is stored as a code, and is an answer that does not agree."""
    engine.new.error = NotFoundError("no weights \x1b[31m")
    server = make_server(repeats_old=True)
    assert server.chat().status_code == 200
    (row,) = server.results()
    assert (row.status, row.error, row.agrees, row.new_digest) == ("failed", "model_unavailable", False, None)
    assert row.repeat_agrees


def test_unknown_new_model_is_an_error(make_server: MakeServer) -> None:
    server = make_server(pairs=(ShadowPair(OLD, "ft:x:local::12345678"),))
    assert server.chat().status_code == 200
    assert server.results()[0].error == "model_not_found"


def test_caller_does_not_wait_for_the_new_model(make_server: MakeServer, engine: PairedEngine) -> None:
    """Answers come while mirrored chats cannot go on; those beyond the limit are dropped, and counted."""
    go_on = threading.Event()
    server = make_server()
    total = MAX_RUNNING + MAX_WAITING + 3
    started = threading.Semaphore(0)

    def hold() -> None:
        started.release()
        assert go_on.wait(20)

    engine.new.before_token = hold
    for number in range(MAX_RUNNING):
        assert server.chat(f"first {number}").status_code == 200
        assert started.acquire(timeout=20)
    for number in range(total - MAX_RUNNING):
        assert server.chat(f"more {number}").status_code == 200
    go_on.set()
    (pair,) = server.pairs()
    assert (pair.chats, pair.dropped) == (total, 3)
    assert len(server.results()) == total - 3


def test_mirrored_chat_waits_for_callers(make_server: MakeServer, engine: PairedEngine) -> None:
    """Between two tokens of an answer for a caller, the new model computes nothing."""
    server = make_server()
    new_has_begun, new_goes_on = threading.Event(), threading.Event()
    old_has_begun, old_goes_on = threading.Event(), threading.Event()
    new_tokens: list[bool] = []
    """For each token of the new model, whether the old one could go on."""

    def hold_new() -> None:
        new_tokens.append(old_goes_on.is_set())
        new_has_begun.set()
        assert new_goes_on.wait(20)

    def hold_old() -> None:
        old_has_begun.set()
        assert old_goes_on.wait(20)

    engine.new.before_token = hold_new
    server.chat("mirrored")
    assert new_has_begun.wait(20)
    engine.before_token = hold_old
    caller = threading.Thread(target=server.chat, args=("caller",))
    caller.start()
    assert old_has_begun.wait(20)
    new_goes_on.set()  # the step that had begun ends, and the next one waits
    assert server.context.shadow is not None
    assert not server.context.shadow.wait_until_idle(0)
    old_goes_on.set()
    caller.join(20)
    assert [row.status for row in server.results()] == ["answered", "answered"]
    assert new_tokens == [False, *[True] * 5]


def test_share_is_stable(make_server: MakeServer, engine: PairedEngine) -> None:
    """The same chats are in it after a restart, and they are in a larger share, too."""
    texts = [f"chat {number}" for number in range(60)]

    def mirrored(share: float) -> set[str]:
        server = make_server(share=share)
        engine.new.requests.clear()
        for text in texts:
            server.chat(text)
            server.settle()
        server.stop()
        return {request.messages[0]["content"] for request in engine.new.requests}

    first, again, more = mirrored(0.3), mirrored(0.3), mirrored(0.6)
    assert first == again
    assert first < more
    assert 5 <= len(first) <= 32


def test_counts_survive_a_restart_for_each_owner(make_server: MakeServer, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"anna:{'a' * 20}\nbert:{'b' * 20}\n")
    keys.chmod(0o600)
    for owner in "ab":
        server = make_server(api_key_file=keys)
        server.client.headers["authorization"] = f"Bearer {owner * 20}"
        server.chat()
        server.chat("other")
        server.settle()
        server.stop()
    server = make_server(api_key_file=keys)
    server.client.headers["authorization"] = f"Bearer {'a' * 20}"
    server.chat()
    assert [(pair.owner, pair.chats) for pair in server.pairs()] == [("anna", 3), ("bert", 2)]
    assert len(server.results()) == 5


def test_answers_are_stored_only_if_told(make_server: MakeServer, engine: PairedEngine, tmp_path: Path) -> None:
    """Without it not even a digest that could be computed without the server's own secret."""
    secret = "the quick brown fox"
    engine.text = engine.new.text = secret
    server = make_server()
    server.chat(secret)
    server.results()
    server.stop()
    stored = b"".join(path.read_bytes() for path in (tmp_path / "data").glob("server.db*"))
    assert b"quick brown" not in stored
    assert (tmp_path / "data" / "shadow.key").stat().st_mode & 0o077 == 0
    server = make_server(keeps_answers=True)
    server.chat(secret, user="anna")
    row = server.results()[-1]
    assert row.texts is not None
    assert row.texts["old"]["content"] == row.texts["new"]["content"] == secret
    assert "anna" not in json.dumps(row.texts)


def test_old_model_is_asked_twice_if_told(make_server: MakeServer, engine: PairedEngine) -> None:
    server = make_server(repeats_old=True)
    server.chat()
    (row,) = server.results()
    assert row.repeat_agrees
    assert (row.repeat_seconds or 0) > 0
    assert len(engine.requests) == 2
    (pair,) = server.pairs()
    assert pair.chats == 1  # the repetition is not a caller's chat


def test_grader_scores_both_answers(make_server: MakeServer, engine: PairedEngine) -> None:
    """It can use the chat as ``item``; no answer has the score 0."""
    grader = {
        "type": "string_check",
        "name": "echo",
        "operation": "eq",
        "input": "{{sample.output_text}}",
        "reference": "{{item.messages[0].content}}",
    }
    engine.text = "yes"
    server = make_server(grader=grader)
    server.chat("yes")
    server.settle()
    engine.new.text = "yes"
    server.chat("yes")
    server.settle()
    engine.new.error = NotFoundError("no weights")
    server.chat("yes")
    assert [(row.old_score, row.new_score) for row in server.results()] == [(1, 0), (1, 1), (1, 0)]


def test_cost_never_exceeds_its_limit(make_server: MakeServer, engine: PairedEngine) -> None:
    """Each chat counts with the most that it can cost before it is sent, also after a restart."""
    server = make_server(price=PRICE, max_cost=300.0)
    for number in range(40):
        server.chat(f"chat {number:02}", max_tokens=3)
        server.settle()
    rows = server.results()
    assert {row.new_cost for row in rows} == {10.0}  # 7 + 3 tokens
    (pair,) = server.pairs()
    assert pair.unpaid == 40 - len(rows)
    spent = sum(row.new_cost for row in rows)
    assert 100 < spent <= 300
    server.stop()
    again = make_server(price=PRICE, max_cost=300.0)
    again.chat("one more", max_tokens=3)
    assert len(again.results()) == len(rows)
    assert engine.new.requests[-1].max_tokens == 3


def test_cost_above_the_highest_one_counts(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that bills more tokens than a chat can have gets no further chat."""
    monkeypatch.setattr("ftpipe.server.shadow.comparison.tokens_of", lambda _answer: {"prompt": 900, "completion": 0})
    server = make_server(price=PRICE, max_cost=300.0)
    for number in range(4):
        server.chat(f"chat {number}", max_tokens=3)
        server.settle()
    assert [row.new_cost for row in server.results()] == [900.0]


def test_priced_chat_has_a_token_limit(make_server: MakeServer, engine: PairedEngine) -> None:
    server = make_server(price=PRICE, max_cost=1e9)
    server.chat()
    server.settle()
    assert engine.new.requests[0].max_tokens == 4096
    assert engine.requests[0].max_tokens is None


def test_chat_with_unknown_outcome_counts_with_its_highest_cost(make_server: MakeServer, engine: PairedEngine) -> None:
    """A host that breaks down may have computed the answer; one that refuses has not."""
    engine.new.error = NotFoundError("no weights")  # status 503
    server = make_server(price=PRICE, max_cost=1e9, pairs=(ShadowPair(OLD, NEW), ShadowPair(OLD, "ft:x")))
    server.chat(max_tokens=3)
    costs = {row.error: row.new_cost for row in server.results()}
    assert costs["model_unavailable"] > 10
    assert costs["model_not_found"] == 0


def test_chat_with_an_image_is_not_sent_to_a_priced_model(make_server: MakeServer, engine: PairedEngine) -> None:
    """A host's tokens for it are not known before."""
    server = make_server(price=PRICE, max_cost=1e9)
    assert server.context.shadow is not None
    content = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
    request = ApiRequest("local", body={"model": OLD, "messages": [{"role": "user", "content": content}]})
    server.context.shadow.offer(request, {"choices": [{"message": {"content": "a cat"}}]}, 1.0)
    (pair,) = server.pairs()
    assert (pair.chats, pair.unpaid) == (1, 1)
    assert engine.new.requests == []


def test_large_chat_is_dropped(make_server: MakeServer) -> None:
    server = make_server()
    assert server.chat("x" * MAX_CHAT_BYTES).status_code == 200
    assert server.results() == []
    assert server.pairs()[0].dropped == 1


def test_stopping_server_drops_mirrored_chats(make_server: MakeServer, engine: PairedEngine) -> None:
    """It does not wait until they are answered: those that wait are counted, and those that run stay unfinished."""
    started, go_on = threading.Semaphore(0), threading.Event()

    def hold() -> None:
        started.release()
        assert go_on.wait(20)

    engine.new.before_token = hold
    server = make_server()
    for number in range(MAX_RUNNING):
        server.chat(f"runs {number}")
        assert started.acquire(timeout=20)
    server.chat("waits")
    server.context.active_requests.cancel_all()
    go_on.set()
    server.stop()
    assert len(engine.new.requests) == MAX_RUNNING
    again = make_server()
    assert [(pair.chats, pair.dropped) for pair in again.pairs()] == [(MAX_RUNNING + 1, 1)]
    assert [row.status for row in again.results()] == ["sent"] * MAX_RUNNING


def test_failure_in_the_mirror_does_not_reach_the_caller(make_server: MakeServer) -> None:
    """Whatever an answer looks like."""
    server = make_server()
    assert server.context.shadow is not None
    broken: Any = None
    server.context.shadow.offer(ApiRequest("local", body={"model": OLD}), broken, 0.0)
    server.chat()
    assert len(server.results()) == 1
