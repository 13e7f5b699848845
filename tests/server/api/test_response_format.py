"""Constrained answers and biased logits, on a real, tiny model that knows nothing of JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ftpipe.server.http import create_app
from ftpipe.server.services import build_context
from ftpipe.server.settings import ServeSettings
from tests.training.tiny_model import save_base

WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
EMPTY = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "stop", "parameters": EMPTY}},
]
CITY = {"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER}}


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Posts a chat to a server with a real engine; returns status and body."""
    folder = tmp_path_factory.mktemp("forms")
    save_base(folder / "models" / "tiny", max_position_embeddings=2048)
    settings = ServeSettings(data_dir=folder / "data", models_dir=folder / "models")
    with TestClient(create_app(build_context(settings)), base_url="http://127.0.0.1") as client:

        def post(**changes: Any) -> tuple[int, Any]:
            body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "seed": 1}
            answer = client.post("/v1/chat/completions", json=body | {"max_tokens": 300} | changes)
            return answer.status_code, answer.json()

        yield post


def text(response: tuple[int, Any]) -> str:
    """The answer's text."""
    assert response[0] == 200, response
    return str(response[1]["choices"][0]["message"]["content"])


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_response_format_json_schema(complete: Any, temperature: float) -> None:
    """A model of random weights gives a whole object and stops by itself."""
    code, body = complete(response_format=CITY, temperature=temperature)
    assert (code, body["choices"][0]["finish_reason"]) == (200, "stop")
    value = json.loads(text((code, body)))
    assert (value["city"] in ("Rome", "Oslo"), 1 <= value["days"] <= 9, len(value)) == (True, True, 2)


def test_response_format_json_object(complete: Any) -> None:
    """It begins as one; as far as the limit lets it, nothing but JSON is written."""
    code, body = complete(response_format={"type": "json_object"}, max_tokens=40)
    content = text((code, body))
    assert content.startswith("{")
    if body["choices"][0]["finish_reason"] == "stop":
        assert isinstance(json.loads(content), dict)


@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", {"weather", "stop"}), ({"type": "function", "function": {"name": "weather"}}, {"weather"})],
)
def test_tool_choice_required_makes_call(complete: Any, choice: Any, names: set[str]) -> None:
    """Of any tool, or of the named one; its arguments have the tool's schema."""
    _, body = complete(tools=TOOLS, tool_choice=choice)
    calls = body["choices"][0]["message"]["tool_calls"]
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    assert {call["function"]["name"] for call in calls} <= names
    arguments = json.loads(calls[0]["function"]["arguments"])
    assert calls[0]["function"]["name"] == "stop" or arguments["city"] in ("Rome", "Oslo")


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_forced_call_ends_if_its_schema_does_not_close_it(complete: Any, temperature: float) -> None:
    """A model of random weights would add members without an end."""
    parameters = {name: value for name, value in WEATHER.items() if name != "additionalProperties"}
    tool = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    _, body = complete(tools=[tool], tool_choice="required", temperature=temperature)
    choice = body["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]).keys() == {"city", "days"}


def test_forced_call_of_custom_tool_follows_its_pattern(complete: Any) -> None:
    grammar = {"syntax": "regex", "definition": 'turn "(left|right)", [0-9]{2}/x'}
    tool = {"type": "custom", "custom": {"name": "steer", "format": {"type": "grammar", "grammar": grammar}}}
    _, body = complete(tools=[tool], tool_choice="required")
    call = body["choices"][0]["message"]["tool_calls"][0]["custom"]
    assert (call["name"], bool(re.fullmatch(grammar["definition"], call["input"]))) == ("steer", True)


def test_forced_call_that_reaches_the_limit_is_no_text(complete: Any) -> None:
    _, body = complete(tools=TOOLS[:1], tool_choice="required", max_tokens=25)
    choice = body["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("length", None)
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["weather"]


def test_response_format_with_tools_is_call_or_format(complete: Any) -> None:
    """Never free text."""
    _, body = complete(tools=TOOLS, response_format=CITY)
    message = body["choices"][0]["message"]
    assert message.get("tool_calls") or json.loads(message["content"])["city"]


def test_logit_bias_forces_and_excludes_tokens(complete: Any) -> None:
    """A forced token comes at every position; excluded again, the answer is as before."""
    code, body = complete(temperature=0, max_tokens=4, logit_bias={"70": 100}, logprobs=True)
    tokens = [token["token"] for token in body["choices"][0]["logprobs"]["content"]]
    assert (code, len(set(tokens)), len(tokens)) == (200, 1, 4)
    plain = text(complete(temperature=0, max_tokens=4))
    assert text(complete(temperature=0, max_tokens=4, logit_bias={"70": 100}, frequency_penalty=0)) != plain


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty"])
def test_penalty_reduces_repetition(complete: Any, penalty: str) -> None:
    """Between two tokens that are pushed alike, a penalty takes turns."""
    push = {"temperature": 0, "max_tokens": 8, "logit_bias": {"70": 100, "71": 100}}
    kinds = [len(set(text(complete(**push, **more)))) for more in ({penalty: -2}, {penalty: 2})]
    assert kinds[0] <= kinds[1]
    assert kinds[0] == 1


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.name"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "cake"}}}},
            "response_format",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "nobody"}}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "custom"}}, "tool_choice"),
        ({"logit_bias": {"999999": 5}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
    ],
)
def test_response_format_refuses_impossible_grammar(complete: Any, changes: dict[str, Any], param: str) -> None:
    """With the wrong parameter, as OpenAI does it."""
    code, body = complete(**changes)
    assert (code, body["error"]["param"]) == (400, param), body


def test_response_format_names_missing_llguidance(tmp_path: Path) -> None:
    """The form is refused with what to install; nothing else needs it."""
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['llguidance'] = None; sys.modules['llguidance.hf'] = None\n"
        "from ftpipe.errors import MissingExtraError\n"
        "from ftpipe.inference.constrained_decoding import Vocabulary\n"
        "try:\n    Vocabulary(None, 1, [0])\nexcept MissingExtraError as exc:\n    print(exc.message)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "llguidance" in ran.stdout
