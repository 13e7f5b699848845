"""Tools in chats, whole and streamed, with an engine whose text the test chooses; every body is valid for the SDK."""

from __future__ import annotations

import threading
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel
from starlette.testclient import TestClient

from tests.server.api.test_chat import complete, stream
from tests.server.conftest import sdk
from tests.server.fakes import FakeEngine
from tests.server.strict_models import StrictType

CALL = '<tool_call>{"name": "f", "arguments": {"a": 1, "b": "x y"}}</tool_call>'
ARGUMENTS = '{"a": 1, "b": "x y"}'
CUSTOM_CALL = '<tool_call>{"name": "run", "arguments": {"input": "print(1)\\n# a \\"b\\""}}</tool_call>'
INPUT = 'print(1)\n# a "b"'
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}
F = {"name": "f", "description": "Does it.", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": F}, {"type": "function", "function": {"name": "g"}}]
CUSTOM = {"type": "custom", "custom": {"name": "run", "description": "Runs code."}}
USER = {"role": "user", "content": "hi"}
COMPLETION, CHUNK = StrictType(ChatCompletion), StrictType(ChatCompletionChunk)


def choice_of(client: TestClient, **fields: Any) -> dict[str, Any]:
    """The choice of a whole answer."""
    body = complete(client, **fields)
    assert "error" not in body, body
    COMPLETION.check(body)
    choice: dict[str, Any] = body["choices"][0]
    return choice


def chunks_of(client: TestClient, **fields: Any) -> list[dict[str, Any]]:
    """The choices of the chunks of a streamed answer."""
    chunks = stream(client, **fields)
    for chunk in chunks:
        CHUNK.check(chunk)
    return [choice for chunk in chunks for choice in chunk["choices"]]


def refused(client: TestClient, **fields: Any) -> tuple[str | None, str | None]:
    error = complete(client, **fields)["error"]
    return error["param"], error["code"]


def test_stream_with_tools_passes_text_and_calls_on_as_they_come(client: TestClient, engine: FakeEngine) -> None:
    engine.text = f"I call it: {CALL}"
    choices = chunks_of(client, tools=TOOLS)
    assert choices[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [choice["delta"]["content"] for choice in choices if choice["delta"].get("content")] == [
        "I",
        " call",
        " it:",
    ]
    calls = [choice["delta"]["tool_calls"][0] for choice in choices if "tool_calls" in choice["delta"]]
    assert calls[0]["id"].startswith("call_")
    assert (calls[0]["type"], calls[0]["function"]) == ("function", {"name": "f", "arguments": ""})
    pieces = [call["function"]["arguments"] for call in calls[1:]]
    assert (pieces[0], "".join(pieces)) == ('{"a":', ARGUMENTS)
    assert len(pieces) > 3
    assert (choices[-1]["delta"], choices[-1]["finish_reason"]) == ({}, "tool_calls")


@pytest.mark.parametrize("text", ["plain text it is", f"a {CALL} b", CALL, CUSTOM_CALL])
def test_stream_with_tools_has_logprobs_of_every_token(client: TestClient, engine: FakeEngine, text: str) -> None:
    """The same as the whole answer has."""
    engine.text = text
    fields = {"tools": [*TOOLS, CUSTOM], "logprobs": True, "top_logprobs": 1}
    whole = choice_of(client, **fields)["logprobs"]["content"]
    chunks = [chunk["choices"] for chunk in stream(client, **fields)]
    streamed = [token for [choice] in chunks if choice["logprobs"] for token in choice["logprobs"]["content"]]
    assert "".join(token["token"] for token in whole) == text
    assert streamed == whole
    assert chunks[-1][0]["logprobs"] is None


def test_stream_of_calls_works_with_the_sdk(client: TestClient, engine: FakeEngine) -> None:
    class Weather(BaseModel):
        a: int
        b: str

    engine.text = CALL
    tool = openai.pydantic_function_tool(Weather, name="f")
    arguments: Any = {"model": "gpt-4o-mini", "messages": [USER], "tools": [tool]}
    with sdk(client).chat.completions.stream(**arguments) as events:
        kinds = [event.type for event in events]
        final = events.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    assert kinds[-1] == "tool_calls.function.arguments.done" or "tool_calls.function.arguments.done" in kinds
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.parsed_arguments == Weather(a=1, b="x y")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
@pytest.mark.parametrize("words", [2, 3, 5])
def test_forced_call_that_reaches_the_limit_is_a_partial_call(
    client: TestClient, engine: FakeEngine, choice: Any, words: int
) -> None:
    engine.text = CALL
    fields = {"tools": TOOLS, "tool_choice": choice, "max_tokens": words}
    whole = choice_of(client, **fields)
    message = whole["message"]
    assert (whole["finish_reason"], message["content"]) == ("length", None)
    [call] = message["tool_calls"]
    assert call["function"]["name"] == "f"
    assert ARGUMENTS.startswith(call["function"]["arguments"])
    streamed = chunks_of(client, **fields)
    calls = [one["delta"]["tool_calls"][0] for one in streamed if "tool_calls" in one["delta"]]
    assert "".join(one["function"]["arguments"] for one in calls) == call["function"]["arguments"]
    assert streamed[-1]["finish_reason"] == "length"


def test_one_call_is_answered_if_no_parallel_ones_are_allowed(client: TestClient, engine: FakeEngine) -> None:
    engine.text = f"{CALL}\n{CALL}"
    assert len(choice_of(client, tools=TOOLS)["message"]["tool_calls"]) == 2
    assert len(choice_of(client, tools=TOOLS, parallel_tool_calls=False)["message"]["tool_calls"]) == 1


def test_custom_tool_is_a_function_for_the_model(client: TestClient, engine: FakeEngine) -> None:
    engine.text = CUSTOM_CALL
    choice = choice_of(client, tools=[*TOOLS, CUSTOM])
    [call] = choice["message"]["tool_calls"]
    assert (call["type"], call["custom"]) == ("custom", {"name": "run", "input": INPUT})
    assert choice["finish_reason"] == "tool_calls"
    assert engine.requests[0].tools is not None
    function = engine.requests[0].tools[-1]["function"]
    assert (function["name"], function["description"]) == ("run", "Runs code.")
    assert function["parameters"]["properties"] == {"input": {"type": "string"}}
    deltas = [chunk["choices"][0]["delta"] for chunk in stream(client, tools=[CUSTOM])]
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert (calls[0]["type"], calls[0]["custom"]) == ("custom", {"name": "run", "input": ""})
    assert "".join(each["custom"]["input"] for each in calls) == INPUT
    assert len(calls) > 2


def test_custom_call_of_an_earlier_answer_reaches_the_model(client: TestClient, engine: FakeEngine) -> None:
    call = {"id": "call_1", "type": "custom", "custom": {"name": "run", "input": INPUT}}
    answer = {"role": "assistant", "content": None, "tool_calls": [call]}
    output = {"role": "tool", "tool_call_id": "call_1", "content": "1"}
    complete(client, messages=[USER, answer, output], tools=[CUSTOM])
    [shown] = engine.requests[0].messages[1]["tool_calls"]
    arguments = '{"input": "print(1)\\n# a \\"b\\""}'
    assert shown == {"id": "call_1", "type": "function", "function": {"name": "run", "arguments": arguments}}


def test_custom_tool_with_a_pattern(client: TestClient, engine: FakeEngine) -> None:
    grammar = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[0-9]+"}}
    tool = {"type": "custom", "custom": {"name": "run", "format": grammar}}
    complete(client, tools=[tool], tool_choice={"type": "custom", "custom": {"name": "run"}})
    assert "^(?:[0-9]+)$" in str(engine.requests[0].grammar)


@pytest.mark.parametrize(
    ("choice", "names", "is_forced"),
    [
        ({"mode": "auto", "tools": [{"type": "function", "function": {"name": "g"}}]}, ["g"], False),
        ({"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}, ["g"], True),
        ({"mode": "required", "tools": [{"type": "custom", "custom": {"name": "run"}}, TOOLS[0]]}, ["run", "f"], True),
        ({"mode": "auto", "tools": [TOOLS[0], TOOLS[0]]}, ["f"], False),
    ],
)
def test_allowed_tools_are_those_that_the_model_sees(
    client: TestClient, engine: FakeEngine, choice: Any, names: list[str], is_forced: bool
) -> None:
    fields = {"tools": [*TOOLS, CUSTOM], "tool_choice": {"type": "allowed_tools", "allowed_tools": choice}}
    assert "error" not in complete(client, **fields)
    request = engine.requests[0]
    assert [tool["function"]["name"] for tool in request.tools or ()] == names
    assert (request.grammar is not None) == is_forced


def test_legacy_functions_are_answered_in_their_form(client: TestClient, engine: FakeEngine) -> None:
    engine.text = f"So: {CALL} {CALL}"
    choice = choice_of(client, functions=[F])
    assert choice["finish_reason"] == "function_call"
    assert choice["message"] == {
        "role": "assistant",
        "content": "So:",
        "refusal": None,
        "function_call": {"name": "f", "arguments": ARGUMENTS},
    }
    assert engine.requests[0].tools == [{"type": "function", "function": F}]
    choices = chunks_of(client, functions=[F])
    calls = [one["delta"]["function_call"] for one in choices if "function_call" in one["delta"]]
    assert (calls[0], "".join(call["arguments"] for call in calls)) == ({"name": "f", "arguments": ""}, ARGUMENTS)
    assert choices[-1]["finish_reason"] == "function_call"


@pytest.mark.parametrize(
    ("choice", "has_tools", "is_forced"), [("none", False, False), ("auto", True, False), ({"name": "f"}, True, True)]
)
def test_legacy_function_call_chooses(
    client: TestClient, engine: FakeEngine, choice: Any, has_tools: bool, is_forced: bool
) -> None:
    complete(client, functions=[F, {"name": "g"}], function_call=choice)
    request = engine.requests[0]
    assert (request.tools is not None, request.grammar is not None) == (has_tools, is_forced)


def test_legacy_call_and_result_reach_the_model(client: TestClient, engine: FakeEngine) -> None:
    call = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ARGUMENTS}}
    result = {"role": "function", "name": "f", "content": "42"}
    complete(client, messages=[USER, call, result], functions=[F])
    assert engine.requests[0].messages[1:] == [
        {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": ARGUMENTS}},
        {"role": "tool", "name": "f", "content": "42"},
    ]


ALLOWED_NOTHING = {"mode": "auto", "tools": [{}]}
LARK = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: /a/"}}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": TOOLS, "functions": [F]}, "functions", "invalid_value"),
        ({"functions": [F], "function_call": {"name": "h"}}, "function_call", "invalid_value"),
        ({"functions": [F], "function_call": "required"}, "function_call", "unsupported_parameter"),
        ({"function_call": {"name": "f"}}, "function_call", "invalid_value"),
        ({"functions": [{"name": "no blank"}]}, "functions[0].name", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"tools": [{"type": "custom"}]}, "tools[0].custom", "missing_required_parameter"),
        (
            {"tools": [{"type": "custom", "custom": {"name": "x", "format": LARK}}]},
            "tools[0].custom.format.grammar.syntax",
            "unsupported_tool",
        ),
        (
            {"tools": [{"type": "custom", "custom": {"name": "x", "format": {"type": "grammar"}}}]},
            "tools[0].custom.format.grammar",
            "missing_required_parameter",
        ),
        ({"tools": [*TOOLS, {"type": "custom", "custom": {"name": "f"}}]}, "tools[2].custom.name", "invalid_value"),
        ({"tools": TOOLS, "tool_choice": {"type": "custom", "custom": {"name": "f"}}}, "tool_choice", "invalid_value"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}},
            "tool_choice.allowed_tools",
            "missing_required_parameter",
        ),
        (
            {
                "tools": TOOLS,
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{}]}},
            },
            "tool_choice.allowed_tools.tools[0]",
            "invalid_value",
        ),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom"}]}]},
            "messages[1].tool_calls[0].custom",
            "missing_required_parameter",
        ),
        (
            {"functions": [{"name": "f", "parameters": {"type": "cake"}}], "function_call": {"name": "f"}},
            "functions[0].parameters",
            "invalid_schema",
        ),
    ],
)
def test_tools_that_are_wrong_are_refused_by_name(
    client: TestClient, fields: dict[str, Any], param: str, code: str
) -> None:
    assert refused(client, **fields) == (param, code)


@pytest.mark.parametrize("streamed", [False, True])
def test_answers_of_a_chat_are_computed_at_the_same_time(
    client: TestClient, engine: FakeEngine, streamed: bool
) -> None:
    """Each waits for the others before its first token."""
    together = threading.Barrier(3, timeout=20)

    def meet() -> None:
        together.wait()

    engine.before_token = meet
    if not streamed:
        body = complete(client, n=3, max_tokens=1)
        COMPLETION.check(body)
        choices = body["choices"]
        assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        assert [choice["message"]["content"] for choice in choices] == ["hello"] * 3
    else:
        choices = [one for one in chunks_of(client, n=3, max_tokens=1) if one["delta"].get("content")]
    assert sorted(choice["index"] for choice in choices) == [0, 1, 2]
    assert not together.broken


def test_json_object_needs_no_word_in_the_messages(client: TestClient, engine: FakeEngine) -> None:
    assert "error" not in complete(client, response_format={"type": "json_object"})
    assert engine.requests[0].grammar is not None
