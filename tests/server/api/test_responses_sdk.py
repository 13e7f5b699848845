"""Responses as the openai SDK uses them: with a real process, and with an engine whose text the test chooses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel
from starlette.testclient import TestClient

from tests.server.fakes import FakeEngine
from tests.server.processes import ServerProcess

MODEL = "gpt-4o-mini"


class City(BaseModel):
    """What a structured answer is parsed into."""

    name: str
    people: int


@pytest.fixture
def sdk(client: TestClient) -> OpenAI:
    """The SDK with a server in this process."""
    return OpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=client, max_retries=0)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ServerProcess]:
    """The ordinary server in a process of its own."""
    (tmp_path / "data").mkdir()
    server = ServerProcess(tmp_path / "data")
    server.start()
    yield server
    server.stop()


@pytest.mark.slow
def test_sdk_creates_streams_continues_and_deletes_over_http(process: ServerProcess) -> None:
    with OpenAI(base_url=process.note["base_url"], api_key="none", _strict_response_validation=True) as sdk:
        first = sdk.responses.create(model=MODEL, input="hi", metadata={"a": "b"})
        assert first.output_text == "hello there friend"
        assert sdk.responses.retrieve(first.id) == first
        with sdk.responses.stream(model=MODEL, input="more", previous_response_id=first.id) as stream:
            texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
            final = stream.get_final_response()
        assert texts == ["hello", " there", " friend"]
        assert final.output_text == "hello there friend"
        items = list(sdk.responses.input_items.list(final.id, order="asc", limit=1))
        assert [item.type for item in items] == ["message"] * 3
        assert sdk.responses.input_tokens.count(model=MODEL, input="hi").input_tokens == 7
        assert sdk.responses.cancel(final.id).status == "completed"
        sdk.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            sdk.responses.retrieve(first.id)
        with pytest.raises(openai.BadRequestError, match=first.id):
            sdk.responses.create(model=MODEL, input="more", previous_response_id=final.id)


def test_sdk_parses_structured_output(sdk: OpenAI, engine: FakeEngine) -> None:
    engine.text = '{"name":"Bern","people":134000}'
    parsed = sdk.responses.parse(model=MODEL, input="Describe Bern.", text_format=City)
    assert parsed.output_parsed == City(name="Bern", people=134000)
    assert engine.requests[-1].grammar is not None
    with sdk.responses.stream(model=MODEL, input="Describe Bern.", text_format=City) as stream:
        assert stream.get_final_response().output_parsed == City(name="Bern", people=134000)


def test_sdk_parses_arguments_of_streamed_call(sdk: OpenAI, engine: FakeEngine) -> None:
    engine.text = '<tool_call>{"name":"City","arguments":{"name":"Bern","people":134000}}</tool_call>'
    tool = openai.pydantic_function_tool(City)["function"]
    parameters = tool["parameters"]
    with sdk.responses.stream(
        model=MODEL,
        input="Describe Bern.",
        tools=[{"type": "function", "name": "City", "parameters": parameters, "strict": True}],
        tool_choice="required",
    ) as stream:
        call = stream.get_final_response().output[0]
    assert call.type == "function_call"
    assert call.parsed_arguments == {"name": "Bern", "people": 134000}


def test_sdk_replays_stream_from_number(sdk: OpenAI) -> None:
    created = sdk.responses.create(model=MODEL, input="hi")
    events = list(sdk.responses.retrieve(created.id, stream=True, starting_after=3))
    assert events[0].sequence_number == 4
    assert events[-1].type == "response.completed"


def test_sdk_raises_error_for_what_is_refused(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="reasoning") as caught:
        sdk.responses.create(model=MODEL, input="hi", reasoning={"effort": "high"})
    assert caught.value.param == "reasoning"
