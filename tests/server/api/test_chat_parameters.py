"""Parameters of chats that OpenAI's API does not have, and those of other servers."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from starlette.testclient import TestClient

from ftpipe.modeling.chat_messages import to_template_messages
from ftpipe.server.api.schemas import IGNORED_PARAMETERS, log_ignored
from tests.server.fakes import TINY, FakeEngine

USER = {"role": "user", "content": "hi"}


def complete(client: TestClient, **fields: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.post(
        "/v1/chat/completions", json={"model": TINY, "messages": [USER], **fields}
    ).json()
    return answer


def test_chat_sampling_of_vllm_reaches_the_engine(client: TestClient, engine: FakeEngine) -> None:
    """-1 and 0 are all tokens, and null is the default."""
    fields = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "chat_template_kwargs": {"enable_thinking": False}}
    complete(client, **fields)
    complete(client, top_k=-1, min_p=None, repetition_penalty=None, chat_template_kwargs=None)
    first, second = engine.requests
    assert {name: getattr(first, name) for name in fields} == fields
    assert (second.top_k, second.min_p, second.repetition_penalty, second.chat_template_kwargs) == (0, 0.0, 1.0, None)


def test_chat_repeat_penalty_of_ollama_is_the_repetition_penalty(client: TestClient, engine: FakeEngine) -> None:
    """Open WebUI sends a panel of Ollama's parameters to every server."""
    panel = {"temperature": 0.7, "top_k": 40, "repeat_penalty": 1.1, "num_ctx": 4096, "use_mlock": True, "think": False}
    complete(client, **panel)
    complete(client, repeat_penalty=1.1, repetition_penalty=1.3)
    assert [request.repetition_penalty for request in engine.requests] == [1.1, 1.3]


@pytest.mark.parametrize(("tier", "priority"), [("flex", "batch"), ("auto", "interactive"), (None, "interactive")])
def test_chat_of_flex_tier_can_wait(client: TestClient, engine: FakeEngine, tier: str | None, priority: str) -> None:
    """Both streamed and whole."""
    complete(client, service_tier=tier)
    body = {"model": TINY, "messages": [USER], "service_tier": tier, "stream": True}
    assert client.post("/v1/chat/completions", json=body).text.endswith("[DONE]\n\n")
    assert [request.priority for request in engine.requests] == [priority] * 2


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("top_k", -2, "top_k"),
        ("top_k", 1.5, "top_k"),
        ("min_p", 1.1, "min_p"),
        ("repetition_penalty", 0, "repetition_penalty"),
        ("repetition_penalty", 1e300, "repetition_penalty"),
        ("chat_template_kwargs", [], "chat_template_kwargs"),
        ("chat_template_kwargs", {"messages": []}, "chat_template_kwargs.messages"),
        ("chat_template_kwargs", {"add_generation_prompt": False}, "chat_template_kwargs.add_generation_prompt"),
        ("chat_template_kwargs", {f"a{number}": 1 for number in range(33)}, "chat_template_kwargs"),
    ],
)
def test_chat_sampling_has_bounds(client: TestClient, field: str, value: Any, param: str) -> None:
    error = complete(client, **{field: value})["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_chat_template_variable_has_a_name(client: TestClient) -> None:
    assert complete(client, chat_template_kwargs={"a b": 1})["error"]["param"].startswith("chat_template_kwargs")


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_chat_reasoning_of_earlier_answer_reaches_the_template(
    client: TestClient, engine: FakeEngine, name: str
) -> None:
    complete(client, messages=[USER, {"role": "assistant", "content": "ho", name: "I think"}, USER])
    message = engine.requests[0].messages[1]
    assert message == {"role": "assistant", "content": "ho", "reasoning_content": "I think"}
    assert to_template_messages([message], None, "") == [message]


def test_chat_ignores_parameters_of_other_servers_and_logs_each_once(
    client: TestClient, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    log_ignored.cache_clear()
    with caplog.at_level(logging.INFO, "ftpipe.server"):
        for _ in range(3):
            for name in sorted(IGNORED_PARAMETERS):
                assert "error" not in complete(client, **{name: {"num_ctx": 5}}), name
    notes = [record.getMessage() for record in caplog.records if "no effect" in record.getMessage()]
    assert len(notes) == len(IGNORED_PARAMETERS)
    assert complete(client, keep_alives=5)["error"]["code"] == "unknown_parameter"
