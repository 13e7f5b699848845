"""Tools that the inference server does not have: it gets functions, and the client's answer has the client's tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ftpipe.gateway.inference.tool_forms import ToolForms
from ftpipe.server.api.chat_schemas import parse_chat
from ftpipe.server.api.chat_tools import parse_chat_tools
from tests.fakes.chat_host import Exchange
from tests.fakes.vllm import BASE, InferenceHost
from tests.gateway.inference.conftest import MakeServer
from tests.gateway.inference.test_chat import MESSAGES, post

F = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
G = {"name": "g"}
TOOLS = [{"type": "function", "function": F}, {"type": "function", "function": G}]
RUN = {"type": "custom", "custom": {"name": "run", "description": "Runs it."}}
INPUT_PARAMETERS = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
RUN_FUNCTION = {
    "type": "function",
    "function": {"name": "run", "description": "Runs it.", "parameters": INPUT_PARAMETERS},
}


def call(name: str, arguments: str, index: int | None = None) -> dict[str, Any]:
    """A call as vLLM answers it; in a stream with its number."""
    numbered = {} if index is None else {"index": index}
    return {**numbered, "id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


def answer_with(*calls: dict[str, Any]) -> Callable[[Exchange], None]:
    """An answer with calls."""

    def answer(exchange: Exchange) -> None:
        message = {"role": "assistant", "content": None, "tool_calls": list(calls)}
        choice = {"index": 0, "finish_reason": "tool_calls", "message": message, "logprobs": None}
        exchange.json({"object": "chat.completion", "choices": [choice], "usage": {"prompt_tokens": 1}})

    return answer


def stream_of(*deltas: dict[str, Any], reason: str = "tool_calls") -> Callable[[Exchange], None]:
    """A streamed answer with these deltas."""

    def answer(exchange: Exchange) -> None:
        exchange.head(200, "text/event-stream; charset=utf-8")
        for number, delta in enumerate(deltas):
            choice = {"index": 0, "delta": delta, "finish_reason": reason if number == len(deltas) - 1 else None}
            exchange.event({"object": "chat.completion.chunk", "choices": [choice]})
        exchange.write(b"data: [DONE]\n\n")

    return answer


def test_legacy_functions_are_tools_there(make_server: MakeServer, host: InferenceHost) -> None:
    host.script.append(answer_with(call("f", '{"a": 1}'), call("g", "{}")))
    response = post(make_server(), BASE, functions=[F, G], function_call={"name": "f"})
    assert host.chats[0].body == {
        "model": BASE,
        "messages": MESSAGES,
        "tools": TOOLS[:1],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
    }
    choice = response.json()["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "function_call": {"name": "f", "arguments": '{"a": 1}'},
    }


def test_legacy_functions_are_streamed_and_stored_in_their_form(make_server: MakeServer, host: InferenceHost) -> None:
    pieces = [{"index": 0, "function": {"arguments": text}} for text in ('{"a"', ": 1}")]
    deltas = [{"tool_calls": [call("f", "", 0)]}, *({"tool_calls": [piece]} for piece in pieces)]
    host.script.append(stream_of(*deltas, {"tool_calls": [call("g", "{}", 1)]}))
    server = make_server()
    create: Any = server.client().chat.completions.create
    chunks = list(create(model=BASE, messages=MESSAGES, functions=[F, G], stream=True, store=True))
    calls = [chunk.choices[0].delta.function_call for chunk in chunks if chunk.choices[0].delta.function_call]
    assert [(each.name, each.arguments) for each in calls] == [("f", ""), (None, '{"a"'), (None, ": 1}")]
    assert chunks[-1].choices[0].finish_reason == "function_call"
    stored = server.client().chat.completions.retrieve(chunks[0].id).choices[0].message
    assert stored.function_call is not None
    assert (stored.function_call.name, stored.function_call.arguments) == ("f", '{"a": 1}')


def test_legacy_messages_have_tool_calls_with_ids(make_server: MakeServer, host: InferenceHost) -> None:
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "42"},
    ]
    post(make_server(), BASE, messages=messages)
    [_, called, result] = host.chats[0].body["messages"]
    expected = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert called == {"role": "assistant", "content": "", "tool_calls": [expected]}
    assert result == {"role": "tool", "name": "f", "content": "42", "tool_call_id": "call_1"}


def test_custom_tool_is_a_function_there(make_server: MakeServer, host: InferenceHost) -> None:
    host.script.append(answer_with(call("run", '{"input": "a \\"b\\""}'), call("f", "{}")))
    custom_call = {"id": "call_0", "type": "custom", "custom": {"name": "run", "input": "x"}}
    earlier = [{"role": "assistant", "content": None, "tool_calls": [custom_call]}]
    response = post(make_server(), BASE, messages=[*MESSAGES, *earlier], tools=[*TOOLS, RUN], tool_choice="required")
    body = host.chats[0].body
    assert (body["tools"], body["tool_choice"]) == ([*TOOLS, RUN_FUNCTION], "required")
    assert body["messages"][1]["tool_calls"][0]["function"] == {"name": "run", "arguments": '{"input": "x"}'}
    custom, function = response.json()["choices"][0]["message"]["tool_calls"]
    assert custom == {"id": "call_1", "type": "custom", "custom": {"name": "run", "input": 'a "b"'}}
    assert function == call("f", "{}")


def test_custom_tool_is_streamed_as_text(make_server: MakeServer, host: InferenceHost) -> None:
    pieces = [{"index": 1, "function": {"arguments": text}} for text in ('{"in', 'put": "a', " \\", 'n b"}')]
    deltas = [{"tool_calls": [call("f", "{}", 0)]}, {"tool_calls": [call("run", "", 1)]}]
    host.script.append(stream_of(*deltas, *({"tool_calls": [piece]} for piece in pieces), {"content": ""}))
    server = make_server()
    text = post(server, BASE, tools=[*TOOLS, RUN], stream=True, store=True).text
    *events, done = text.strip().split("\n\n")
    assert done == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    calls = [each for chunk in chunks for each in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert calls == [
        call("f", "{}", 0),
        {"index": 1, "id": "call_1", "type": "custom", "custom": {"name": "run", "input": ""}},
        {"index": 1, "custom": {"input": "a"}},
        {"index": 1, "custom": {"input": " "}},
        {"index": 1, "custom": {"input": "\n b"}},
    ]
    stored = server.client().chat.completions.retrieve(chunks[0]["id"]).choices[0].message.tool_calls
    assert stored is not None
    assert stored[1].model_dump()["custom"] == {"name": "run", "input": "a \n b"}


@pytest.mark.parametrize(
    ("choice", "tools", "passed"),
    [
        ({"mode": "auto", "tools": [TOOLS[1]]}, TOOLS[1:], "auto"),
        ({"mode": "required", "tools": [TOOLS[1]]}, TOOLS[1:], {"type": "function", "function": {"name": "g"}}),
        ({"mode": "required", "tools": TOOLS}, TOOLS, "required"),
    ],
)
def test_allowed_tools_are_the_only_ones_there(
    make_server: MakeServer, host: InferenceHost, choice: Any, tools: Any, passed: Any
) -> None:
    fields = {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": choice}}
    assert post(make_server(), BASE, **fields).status_code == 200
    body = host.chats[0].body
    assert (body["tools"], body["tool_choice"]) == (tools, passed)


def test_functions_that_are_not_called_are_left_out(make_server: MakeServer, host: InferenceHost) -> None:
    assert post(make_server(), BASE, functions=[F], function_call="none").status_code == 200
    assert host.chats[0].body == {"model": BASE, "messages": MESSAGES}


def test_tools_that_are_wrong_are_refused_here(make_server: MakeServer, host: InferenceHost) -> None:
    response = post(make_server(), BASE, functions=[F], function_call={"name": "h"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "function_call")
    assert host.chats == []


@pytest.mark.parametrize("odd", [None, {}, [], ["run"], 5, True, "x"])
@pytest.mark.parametrize("field", ["name", "arguments"])
@pytest.mark.parametrize("tools", [{"tools": [RUN]}, {"functions": [{"name": "run"}]}])
def test_call_with_fields_of_other_types_does_not_fail(tools: dict[str, Any], field: str, odd: object) -> None:
    """A name or a number that is an object is no key of a set."""
    function = {"name": "run", "arguments": "{}", field: odd}
    called = {"tool_calls": [{"index": odd, "function": function}, {"index": 1, "function": function}]}
    forms = ToolForms(parse_chat_tools(parse_chat({"model": "m", "messages": MESSAGES, **tools})))
    for choice in ({"delta": called}, {"delta": called, "index": odd}, {"message": called}, {"finish_reason": odd}):
        assert len(forms.apply({"choices": [choice]})["choices"]) == 1


@pytest.mark.parametrize("index", [None, 1])
def test_legacy_call_of_a_whole_answer_is_the_first_one(index: int | None) -> None:
    """Whatever its number is, which can be null at SGLang (``ToolCall.index`` in its ``protocol.py``)."""
    forms = ToolForms(parse_chat_tools(parse_chat({"model": "m", "messages": MESSAGES, "functions": [F]})))
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{**call("f", "{}"), "index": index}, call("g", "{}")],
    }
    [choice] = forms.apply({"choices": [{"index": 0, "message": message}]})["choices"]
    assert choice["message"]["function_call"] == {"name": "f", "arguments": "{}"}


@pytest.mark.parametrize("choices", [None, {}, [None], [{"message": 1, "delta": []}], [{"delta": {"tool_calls": [1]}}]])
def test_answer_of_another_shape_does_not_fail(choices: Any) -> None:
    body = {"model": "m", "messages": MESSAGES, "tools": [RUN]}
    ToolForms(parse_chat_tools(parse_chat(body))).apply({"choices": choices})
