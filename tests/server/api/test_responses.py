"""Responses over HTTP, with an engine that generates a fixed text; every body and event is valid for the openai SDK."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from openai.types.responses import Response, ResponseItem, ResponseStreamEvent
from starlette.testclient import TestClient

from ftpipe.inference.request import ContextLengthError
from tests.server.conftest import MakeClient, assert_openai_error
from tests.server.fakes import FakeEngine
from tests.server.strict_models import StrictType

MODEL = "gpt-4o-mini"
LARK = {"type": "grammar", "syntax": "lark", "definition": "start: /a/"}
CALL = '<tool_call>{"name":"f","arguments":{"a":1}}</tool_call>'
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
RESPONSE, EVENT, ITEM = StrictType(Response), StrictType(ResponseStreamEvent), StrictType(ResponseItem)


def post(client: TestClient, **fields: Any) -> httpx2.Response:
    """Post a request for a response."""
    return client.post("/v1/responses", json={"model": MODEL, "input": "hi"} | fields)


def create(client: TestClient, **fields: Any) -> dict[str, Any]:
    """A whole response."""
    answer = post(client, **fields)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    RESPONSE.check(body)
    return body


def parse_events(text: str) -> list[dict[str, Any]]:
    """The events of a stream."""
    events = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENT.check(event)
        events.append(event)
    return events


def stream(client: TestClient, **fields: Any) -> list[dict[str, Any]]:
    """The events of a streamed response, numbered without a gap."""
    events = parse_events(post(client, stream=True, **fields).text)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def input_items(client: TestClient, response_id: str, **params: Any) -> dict[str, Any]:
    """A page of the items that a response was created from."""
    page: dict[str, Any] = client.get(f"/v1/responses/{response_id}/input_items", params=params).json()
    for item in page["data"]:
        ITEM.check(item)
    return page


def test_response_has_text_status_and_usage(client: TestClient, engine: FakeEngine) -> None:
    body = create(client, instructions="Be brief.", metadata={"a": "b"}, temperature=0, top_p=0.5, max_output_tokens=9)
    assert body["output"][0]["content"][0]["text"] == "hello there friend"
    assert (body["status"], body["model"], body["metadata"]) == ("completed", "smollm2-135m-instruct", {"a": "b"})
    assert body["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 10,
    }
    request = engine.requests[0]
    assert (request.temperature, request.top_p, request.max_tokens) == (0, 0.5, 9)
    assert request.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize(("tier", "priority"), [("flex", "batch"), ("auto", "interactive"), (None, "interactive")])
def test_response_of_flex_tier_can_wait(
    client: TestClient, engine: FakeEngine, tier: str | None, priority: str, *, is_streamed: bool
) -> None:
    body = {"model": MODEL, "input": "hi", "service_tier": tier, "stream": is_streamed}
    answer = client.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    assert f'"service_tier":"{"flex" if tier == "flex" else "default"}"' in answer.text.replace(": ", ":")
    assert [request.priority for request in engine.requests] == [priority]


def test_response_stream_has_all_events_in_order(client: TestClient) -> None:
    events = stream(client)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert "".join(event["delta"] for event in events if "delta" in event) == "hello there friend"
    final = events[-1]["response"]
    assert final["output"][0] == events[-2]["item"]
    assert client.get(f"/v1/responses/{final['id']}").json() == final


def test_response_with_too_few_tokens_is_incomplete(client: TestClient) -> None:
    body = create(client, max_output_tokens=2)
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert body["output"][0]["status"] == "incomplete"
    events = stream(client, max_output_tokens=2)
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["completed_at"] is None


def test_response_calls_functions(client: TestClient, engine: FakeEngine) -> None:
    """A call, whole and streamed, and its output in the next request."""
    engine.text = CALL
    body = create(client, tools=[TOOL])
    call = body["output"][0]
    assert (call["type"], call["name"], json.loads(call["arguments"])) == ("function_call", "f", {"a": 1})
    assert engine.requests[0].tools == [
        {"type": "function", "function": {key: TOOL[key] for key in ("name", "parameters")}}
    ]
    events = stream(client, tools=[TOOL])
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[2] == "output_item.added"
    assert kinds[-3:] == ["function_call_arguments.done", "output_item.done", "completed"]
    deltas = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert json.loads("".join(deltas)) == {"a": 1}
    engine.text = "fine"
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "42"}
    create(client, tools=[TOOL], input=[{"role": "user", "content": "hi"}, call, output])
    assert [message["role"] for message in engine.requests[-1].messages] == ["user", "assistant", "tool"]
    assert engine.requests[-1].messages[2] == {"role": "tool", "content": "42", "tool_call_id": call["call_id"]}


def test_response_streams_text_and_calls_as_they_come(client: TestClient, engine: FakeEngine) -> None:
    """With the log-probabilities of the text; a call has none."""
    engine.text = 'So it is: <tool_call>{"name": "f", "arguments": {"a": 1, "b": 2}}</tool_call>'
    events = stream(client, tools=[TOOL], include=["message.output_text.logprobs"])
    texts = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [event["delta"] for event in texts] == ["So", " it", " is:"]
    assert ["".join(token["token"] for token in event["logprobs"]) for event in texts] == ["So", " it", " is:"]
    pieces = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert ("".join(pieces), len(pieces)) == ('{"a": 1, "b": 2}', 4)
    message, call = events[-1]["response"]["output"]
    assert (message["status"], call["status"], call["arguments"]) == ("completed", "completed", '{"a": 1, "b": 2}')
    whole = create(client, tools=[TOOL], include=["message.output_text.logprobs"])
    assert [item["type"] for item in whole["output"]] == ["message", "function_call"]
    assert whole["output"][0]["content"] == message["content"]


def test_response_with_forced_call_that_reaches_the_limit_has_a_partial_call(
    client: TestClient, engine: FakeEngine
) -> None:
    engine.text = '<tool_call>{"name": "f", "arguments": {"a": 1, "b": 2}}</tool_call>'
    fields = {"tools": [TOOL], "tool_choice": "required", "max_output_tokens": 5}
    body = create(client, **fields)
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    [call] = body["output"]
    assert (call["type"], call["status"], call["arguments"]) == ("function_call", "incomplete", '{"a": 1,')
    events = stream(client, **fields)
    assert events[-1]["type"] == "response.incomplete"
    path = f"/v1/responses/{events[-1]['response']['id']}"
    assert parse_events(client.get(path, params={"stream": "true"}).text) == events


def test_response_calls_custom_tools(client: TestClient, engine: FakeEngine) -> None:
    """Whole, streamed, streamed again, listed, and as a part of a conversation."""
    engine.text = '<tool_call>{"name": "run", "arguments": {"input": "say \\"a b c\\""}}</tool_call>'
    tool = {"type": "custom", "name": "run", "description": "Runs code.", "format": {"type": "text"}}
    fields = {"tools": [tool, TOOL], "tool_choice": {"type": "custom", "name": "run"}}
    body = create(client, **fields)
    [call] = body["output"]
    assert (call["type"], call["name"], call["input"]) == ("custom_tool_call", "run", 'say "a b c"')
    assert body["tools"][0] == tool
    assert [one["function"]["name"] for one in engine.requests[-1].tools or ()] == ["run"]
    events = stream(client, **fields)
    pieces = [event["delta"] for event in events if event["type"] == "response.custom_tool_call_input.delta"]
    assert ("".join(pieces), len(pieces)) == ('say "a b c"', 4)
    [done] = [event for event in events if event["type"] == "response.custom_tool_call_input.done"]
    assert done["input"] == 'say "a b c"'
    path = f"/v1/responses/{events[-1]['response']['id']}"
    assert parse_events(client.get(path, params={"stream": "true"}).text) == events
    engine.text = "fine"
    output = {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "42"}
    second = create(client, tools=[tool], input=[output], previous_response_id=body["id"])
    assert [message["role"] for message in engine.requests[-1].messages] == ["user", "assistant", "tool"]
    items = input_items(client, second["id"], order="asc")["data"]
    assert [item["type"] for item in items] == ["message", "custom_tool_call", "custom_tool_call_output"]
    create(client, tools=[tool], input=[{"role": "user", "content": "hi"}, call, output])
    assert engine.requests[-1].messages[1]["tool_calls"][0]["function"]["arguments"] == '{"input": "say \\"a b c\\""}'


def test_response_counts_cached_tokens(client: TestClient, engine: FakeEngine) -> None:
    engine.cached_tokens = 5
    assert create(client)["usage"]["input_tokens_details"]["cached_tokens"] == 5


def test_response_refuses_output_without_call(client: TestClient) -> None:
    answer = post(client, input=[{"type": "function_call_output", "call_id": "call_1", "output": "42"}])
    assert answer.status_code == 400
    assert "call_1" in answer.json()["error"]["message"]


def test_response_continues_conversation(client: TestClient, engine: FakeEngine) -> None:
    """Items of all responses before it are read and listed; instructions are not carried over."""
    first = create(client, instructions="Be brief.")
    second = create(client, input="more", previous_response_id=first["id"])
    third = create(client, input=[{"role": "user", "content": "end"}], previous_response_id=second["id"])
    assert [message["content"] for message in engine.requests[-1].messages] == [
        *("hi", "hello there friend", "more", "hello there friend", "end")
    ]
    assert engine.requests[-1].messages[0]["role"] == "user"
    page = input_items(client, third["id"], order="asc", limit=2)
    assert [item["content"][0]["text"] for item in page["data"]] == ["hi", "hello there friend"]
    assert page["has_more"]
    rest = input_items(client, third["id"], order="asc", after=page["last_id"])
    assert [item["content"][0]["text"] for item in rest["data"]] == ["more", "hello there friend", "end"]
    assert not rest["has_more"]
    assert [item["id"] for item in input_items(client, third["id"])["data"]] == [
        item["id"] for item in reversed(page["data"] + rest["data"])
    ]
    unknown = client.get(f"/v1/responses/{third['id']}/input_items", params={"after": "nothing"})
    assert unknown.status_code == 400


@pytest.mark.parametrize("odd", [{}, {"type": "message"}, [], ["function"], 5, True, "x"])
@pytest.mark.parametrize(
    "body",
    [
        {"input": [{"type": "ODD", "role": "user", "content": "x"}]},
        {"input": [{"type": "message", "role": "user", "content": [{"type": "ODD", "text": "x"}]}]},
        {"input": "x", "tools": [{"type": "ODD", "name": "f"}]},
        {"input": "x", "tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "ODD", "name": "f"}},
        {"input": "x", "text": {"format": {"type": "ODD"}}},
    ],
)
def test_response_refuses_types_that_are_no_names(client: TestClient, body: dict[str, Any], odd: object) -> None:
    text = json.dumps({"model": MODEL, **body}).replace('"ODD"', json.dumps(odd))
    assert client.post("/v1/responses", json=json.loads(text)).status_code == 400


def test_response_resolves_item_references(client: TestClient, engine: FakeEngine) -> None:
    """Vercel's AI SDK sends the items of stored responses by their ids alone."""
    engine.text = CALL
    call = create(client, tools=[TOOL])["output"][0]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "42"}
    items = [{"role": "user", "content": "hi"}, {"type": "item_reference", "id": call["id"]}, output]
    create(client, input=items, tools=[TOOL])
    assert engine.requests[-1].messages[1]["tool_calls"][0]["function"]["name"] == "f"
    missing = post(client, input=[{"id": "msg_0123456789abcdefghijklmn0000"}])
    assert missing.status_code == 404
    assert_openai_error(missing)


def test_response_is_not_stored_if_request_says_so(client: TestClient) -> None:
    body = create(client, store=False)
    assert client.get(f"/v1/responses/{body['id']}").status_code == 404
    answer = post(client, previous_response_id=body["id"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "previous_response_not_found")


def test_response_can_be_deleted(client: TestClient) -> None:
    body = create(client)
    deleted = client.delete(f"/v1/responses/{body['id']}").json()
    assert deleted == {"id": body["id"], "object": "response", "deleted": True}
    assert client.get(f"/v1/responses/{body['id']}").status_code == 404
    assert client.delete(f"/v1/responses/{body['id']}").status_code == 404


def test_response_replays_its_stream(client: TestClient, engine: FakeEngine) -> None:
    """Exactly the same events again, or those after a number; also of a response that was not streamed."""
    for fields in ({}, {"top_logprobs": 2}, {"max_output_tokens": 2}, {"tools": [TOOL]}):
        engine.text = CALL if "tools" in fields else "hello there friend"
        events = stream(client, **fields)
        path = f"/v1/responses/{events[-1]['response']['id']}"
        assert parse_events(client.get(path, params={"stream": "true"}).text) == events
        rest = parse_events(client.get(path, params={"stream": "true", "starting_after": 4}).text)
        assert rest == events[5:]
    whole = create(client)
    replayed = parse_events(client.get(f"/v1/responses/{whole['id']}", params={"stream": "true"}).text)
    assert replayed[-1]["response"] == whole


def test_response_logprobs_are_in_items_and_events(client: TestClient) -> None:
    body = create(client, include=["message.output_text.logprobs"], top_logprobs=2)
    tokens = body["output"][0]["content"][0]["logprobs"]
    assert [token["token"] for token in tokens] == ["hello", " there", " friend"]
    assert tokens[0]["bytes"] == list(b"hello")
    events = stream(client, include=["message.output_text.logprobs"], top_logprobs=2)
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [len(event["logprobs"][0]["top_logprobs"]) for event in deltas] == [2, 2, 2]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [TOOL], "tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"tools": [{"type": "custom", "name": "x", "format": LARK}]}, "tools[0].format.syntax"),
        ({"tools": [{"type": "custom", "name": "x", "format": {"type": "grammar"}}]}, "tools[0].format"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, "input[0].content[0]"),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "input[0]"),
        ({"input": [{}]}, "input[0].type"),
        ({"input": []}, "input"),
        ({"model": None}, "model"),
        ({"top_k": "many"}, "top_k"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "nothing"}}}}, "text.format"),
        ({"tools": [TOOL | {"parameters": {"type": 1}}], "tool_choice": "required"}, "tools[0].parameters"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
    ],
)
def test_response_refuses_by_name(client: TestClient, fields: dict[str, Any], param: str) -> None:
    answer = post(client, **fields)
    assert answer.status_code == 400, answer.text
    assert_openai_error(answer)
    assert answer.json()["error"]["param"] == param
    assert param.split("[")[0].split(".")[0] in answer.json()["error"]["message"]


def test_response_format_constrains_answer(client: TestClient, engine: FakeEngine) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    text_format = {"type": "json_schema", "name": "x", "schema": schema, "strict": True}
    body = create(client, text={"format": text_format, "verbosity": "low"})
    assert engine.requests[-1].grammar is not None
    assert body["text"] == {"format": text_format, "verbosity": "low"}


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "name": "f"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
    ],
)
def test_response_tool_choice_forces_call(client: TestClient, engine: FakeEngine, choice: Any) -> None:
    engine.text = CALL
    body = create(client, tools=[TOOL, TOOL | {"name": "g"}], tool_choice=choice)
    assert engine.requests[-1].grammar is not None
    assert body["tool_choice"] == choice


def test_response_allowed_tools_must_be_defined(client: TestClient) -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "h"}]}
    answer = post(client, tools=[TOOL], tool_choice=choice)
    assert answer.json()["error"]["param"] == "tool_choice.tools[0]"


def test_response_belongs_to_owner(make_client: MakeClient, tmp_path: Any) -> None:
    keys = tmp_path / "keys"
    keys.write_text("ann:key-of-ann-0123456789\nbob:key-of-bob-0123456789\n")
    keys.chmod(0o600)
    client = make_client(api_key_file=keys)
    client.headers["authorization"] = "Bearer key-of-ann-0123456789"
    body = create(client)
    client.headers["authorization"] = "Bearer key-of-bob-0123456789"
    path = f"/v1/responses/{body['id']}"
    answers = [client.get(path), client.delete(path), client.post(f"{path}/cancel"), client.get(f"{path}/input_items")]
    assert [answer.status_code for answer in answers] == [404] * 4
    assert post(client, previous_response_id=body["id"]).status_code == 400
    assert post(client, input=[{"type": "item_reference", "id": body["output"][0]["id"]}]).status_code == 404


def test_response_input_tokens_are_counted(client: TestClient, engine: FakeEngine) -> None:
    """Of the whole conversation with its tools; nothing is generated, and nothing stored."""
    first = create(client)
    fields = {"model": MODEL, "input": "more", "previous_response_id": first["id"], "tools": [TOOL]}
    answer = client.post("/v1/responses/input_tokens", json=fields)
    assert answer.json() == {"object": "response.input_tokens", "input_tokens": 7}
    request = engine.requests[-1]
    assert (request.max_tokens, len(request.messages), len(request.tools or [])) == (0, 3, 1)
    unknown = client.post("/v1/responses/input_tokens", json=fields | {"temperature": 1})
    assert unknown.json()["error"]["param"] == "temperature"


def test_response_truncation_is_tried_only_if_requested(client: TestClient, engine: FakeEngine) -> None:
    engine.error = ContextLengthError("too long", "shorten it")
    conversation = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    for truncation, calls in ((None, 1), ("disabled", 1), ("auto", 4)):
        engine.requests.clear()
        answer = post(client, input=conversation, truncation=truncation)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert len(engine.requests) == calls
    assert len(engine.requests[-1].messages) == 1
    engine.error = None
    assert create(client, input=conversation, truncation="auto")["truncation"] == "auto"


def test_response_compaction_is_refused_with_a_reason(client: TestClient) -> None:
    answer = client.post("/v1/responses/compact", json={"model": MODEL, "input": "hi"})
    assert answer.status_code == 404
    assert "Compaction is not served" in answer.json()["error"]["message"]
