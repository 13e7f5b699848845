"""Bodies of any depth and shape are a 400 that names the parameter, and never a 500."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from ftpipe.server.protocol import MAX_JSON_KEYS
from tests.server.conftest import LINES, assert_openai_error, upload
from tests.server.route_fuzzer import CHATS, JSON_ROUTES, dump, paths_of, seed_rows

JSON_HEADERS = {"content-type": "application/json"}


def nested(depth: int, *, in_objects: bool = True) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if in_objects else [value]
    return value


def chat(**changes: Any) -> dict[str, Any]:
    return {**CHATS[0], **changes}


def with_schema(schema: Any) -> dict[str, Any]:
    return chat(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})


def with_parameters(parameters: Any) -> dict[str, Any]:
    function = {"name": "f", "parameters": parameters}
    return chat(tools=[{"type": "function", "function": function}], tool_choice="required")


@pytest.mark.parametrize("depth", [101, 900, 1000, 5000])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", lambda value: chat(tools=value)),
        ("/v1/chat/completions", lambda value: chat(metadata=value)),
        ("/v1/chat/completions", lambda value: with_parameters(value)),
        ("/v1/fine_tuning/jobs", lambda value: {"model": "gpt-4o-mini", "training_file": "x", "metadata": value}),
        ("/v1/fine_tuning/alpha/graders/run", lambda value: {"grader": value, "model_sample": "x", "item": value}),
        ("/v1/fine_tuning/alpha/graders/validate", lambda value: {"grader": value}),
        ("/v1/uploads", lambda value: value),
    ],
)
def test_body_that_is_nested_deeply_is_400(client: TestClient, path: str, body: Any, depth: int) -> None:
    for in_objects in (True, False):
        content = dump(body(nested(depth, in_objects=in_objects)))
        answer = client.post(path, content=content, headers=JSON_HEADERS)
        assert answer.status_code == 400
        assert_openai_error(answer)
        assert answer.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (chat(messages=[{"role": "assistant", "tool_calls": [{"function": "x"}]}]),
         "messages[0].tool_calls[0].function"),
        (chat(messages=[{"role": "assistant", "tool_calls": ["x"]}]), "messages[0].tool_calls[0]"),
        (chat(messages=[{"role": "assistant", "tool_calls": [{"function": {"name": 5}}]}]),
         "messages[0].tool_calls[0].function.name"),
        (chat(messages=[{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}]),
         "messages[0].tool_calls[0].function.arguments"),
        (with_schema({"$ref": "#"}), "response_format"),
        (with_schema({"properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"anyOf": [{"$ref": "#/$defs/b"}]}}}),
         "response_format"),
        (with_schema({"$ref": "http://127.0.0.1:9/x.json"}), "response_format"),
        (with_schema({"$defs": 5}), "response_format"),
        (with_schema({"type": 5}), "response_format"),
        (with_schema({"description": "x" * 300_000}), "response_format"),
        (with_schema(nested(90)), "response_format"),
        (with_parameters({"$defs": 5}), "tools[0].function.parameters"),
        (with_parameters({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}), "tools[0].function.parameters"),
    ],
)  # fmt: skip
def test_chat_of_a_wrong_shape_is_400_and_names_the_parameter(
    client: TestClient, body: dict[str, Any], param: str
) -> None:
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert_openai_error(answer)
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "expires_after", ["[" * 8000, "[" * 200 + "]" * 200, "9" * 5000, '"x"', "5", "null", "NaN", ""]
)
def test_files_odd_expires_after_is_400_or_ignored(client: TestClient, expires_after: str) -> None:
    data = {"purpose": "fine-tune", "expires_after": expires_after}
    answer = client.post("/v1/files", data=data, files={"file": ("a.jsonl", LINES)})
    assert answer.status_code == (200 if expires_after == "null" else 400)


@pytest.mark.parametrize("models", ["[" * 8000, '{"a":' * 2000, "[" * 900 + "]" * 900])
def test_losses_models_nested_deeply_are_400(client: TestClient, models: str) -> None:
    answer = client.post("/v1/ftpipe/losses", data={"models": models}, files={"file": ("a.jsonl", LINES)})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "models"


def test_chat_accepts_what_clients_add_to_tool_calls(client: TestClient) -> None:
    """An index, as the pieces of a stream have, and arguments that were parsed."""
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}, "parsed": None}}
    messages = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c", "content": "1"}]
    assert client.post("/v1/chat/completions", json=chat(messages=messages)).status_code == 200
    assert upload(client)["id"]


@pytest.mark.parametrize("odd", [{}, [{}]], ids=["object", "list"])
@pytest.mark.parametrize(("path", "bodies"), [one for one in JSON_ROUTES if "{id}" not in one[0]])
def test_object_or_list_in_place_of_any_value_is_no_500(
    client: TestClient, path: str, bodies: tuple[dict[str, Any], ...], odd: object
) -> None:
    """Neither is a key of a set or of a dictionary."""
    ids = seed_rows(client)
    for body in bodies:
        text = json.dumps(body)
        for name, id_ in ids.items():
            text = text.replace(f'"{name}"', json.dumps(id_))
        for steps in list(paths_of(body)):
            changed = parent = json.loads(text)
            for step in steps[:-1]:
                parent = parent[step]
            if steps:
                parent[steps[-1]] = odd
            assert client.post(path, json=changed).status_code < 500, steps


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/batches"])
def test_body_with_too_many_keys_is_400(client: TestClient, path: str) -> None:
    """They would be in memory several times, with an error for each."""
    few = b"".join(b'"k%d":1,' % number for number in range(1000))
    objects = b",".join([b"{" + few + b'"k":1}'] * (MAX_JSON_KEYS // 1000))
    answer = client.post(path, content=b'{"model":[' + objects + b"]}", headers=JSON_HEADERS)
    assert answer.status_code == 400
    assert "more than 200000 keys" in answer.json()["error"]["message"]
