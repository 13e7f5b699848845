"""Chat completions over HTTP, with an engine that generates a fixed text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from ftpipe.errors import NotFoundError
from ftpipe.inference.request import ContextLengthError
from tests.server.conftest import MakeClient
from tests.server.fakes import FakeBaseModels, FakeEngine

USER = {"role": "user", "content": "hi"}


def complete(client: TestClient, **changes: Any) -> Any:
    """Post a chat request and give the body back."""
    return client.post("/v1/chat/completions", json={"model": "gpt-4o-mini", "messages": [USER]} | changes).json()


def stream(client: TestClient, **changes: Any) -> list[dict[str, Any]]:
    """The chunks of a streamed answer, without the end mark."""
    body = {"model": "gpt-4o-mini", "messages": [USER], "stream": True} | changes
    blocks = client.post("/v1/chat/completions", json=body).text.strip().split("\n\n")
    assert blocks[-1] == "data: [DONE]"
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-1]]


def test_chat_completion_has_text_reason_and_usage(client: TestClient) -> None:
    """The shape that every client reads."""
    answer = complete(client)
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "hello there friend", "refusal": None}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def test_chat_stream_has_same_content(client: TestClient) -> None:
    """Role first, then text, then the reason, then the requested usage."""
    chunks = stream(client, stream_options={"include_usage": True})
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks[:-1]) == "hello there friend"
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 3


def test_chat_passes_sampling_parameters(client: TestClient, engine: FakeEngine) -> None:
    """Under both names of the token limit; each of the n answers has a seed of its own."""
    complete(client, max_completion_tokens=2, temperature=0, top_p=0.5, stop="x", seed=5, n=2)
    first, second = engine.requests
    assert (first.max_tokens, first.temperature, first.top_p, first.stop, first.seed) == (2, 0, 0.5, ("x",), 5)
    assert second.seed == 6
    answer = complete(client, max_tokens=1)
    assert answer["choices"][0]["finish_reason"] == "length"


def test_chat_logprobs_have_alternatives(client: TestClient) -> None:
    """One entry a token, bytes included."""
    content = complete(client, logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
    assert content[0]["token"] == "hello"
    assert content[0]["bytes"] == list(b"hello")
    assert len(content[0]["top_logprobs"]) == 2


def test_chat_tools_and_tool_calls(client: TestClient, engine: FakeEngine) -> None:
    """A call in the text is answered as a call, whole and streamed."""
    engine.text = '<tool_call>{"name":"f","arguments":{"a":1}}</tool_call>'
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    choice = complete(client, tools=tools)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":1}'}
    assert engine.requests[0].tools == tools
    deltas = [chunk["choices"][0]["delta"] for chunk in stream(client, tools=tools)]
    assert next(delta for delta in deltas if "tool_calls" in delta)["tool_calls"][0]["index"] == 0
    complete(client, tools=tools, tool_choice="none")
    assert engine.requests[-1].tools is None


def test_chat_messages_become_template_messages(client: TestClient, engine: FakeEngine) -> None:
    """Text parts are joined, developer is system; the error about an image names its path."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    complete(client, messages=[{"role": "developer", "content": "be kind"}, {"role": "user", "content": parts}])
    expected = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "ab"}]
    assert engine.requests[0].messages == expected
    image = [{"type": "image_url", "image_url": {"url": "http://x"}}]
    answer = complete(client, messages=[USER, {"role": "user", "content": image}])
    assert answer["error"]["param"] == "messages[1].content[0]"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"n": 0}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_chat_refuses_unsupported_parameter(client: TestClient, changes: dict[str, Any], param: str) -> None:
    """Ignoring it silently would give another answer than the requested one."""
    assert complete(client, **changes)["error"]["param"] == param


def test_chat_unknown_model_is_not_found(make_client: MakeClient) -> None:
    """Also an OpenAI name, where substitute models are off."""
    client = make_client(bases=FakeBaseModels(substitutes=False))
    for name in ("gpt-4o-mini", "ft:x:local::12345678", "x/../y"):
        assert complete(client, model=name)["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("streamed", [False, True])
def test_chat_engine_error_is_http_error(client: TestClient, engine: FakeEngine, streamed: bool) -> None:
    """The failure comes as a status, not as a stream that breaks off."""
    body = {"model": "gpt-4o-mini", "messages": [USER], "stream": streamed}
    engine.error = ContextLengthError("too long")
    answer = client.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    engine.error = NotFoundError("no weights")
    assert client.post("/v1/chat/completions", json=body).status_code == 503
