"""Stored chat completions, with OpenAI's client; its types are the schema of what the server returns."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionDeleted
from starlette.testclient import TestClient

from ftpipe.canonical_json import canonical_json
from ftpipe.server.api import stored_completions
from tests.server.conftest import MakeClient, sdk

TURNS: list[openai.types.chat.ChatCompletionMessageParam] = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    {"role": "user", "content": "again"},
]


def store(api: openai.OpenAI, **metadata: str) -> ChatCompletion:
    """Complete a chat that is stored."""
    return api.chat.completions.create(model="gpt-4o-mini", messages=TURNS, store=True, metadata=metadata)


@pytest.fixture
def api(client: TestClient) -> openai.OpenAI:
    """OpenAI's client."""
    return sdk(client)


def test_stored_completion_is_retrieved_updated_and_deleted(api: openai.OpenAI) -> None:
    """The metadata are all that changes; a deleted completion is gone from everything."""
    answer = store(api, a="1")
    assert api.chat.completions.retrieve(answer.id).metadata == {"a": "1"}
    updated = api.chat.completions.update(answer.id, metadata={"b": "2"})
    ChatCompletion.model_validate(updated.model_dump(), strict=True)
    assert (updated.choices, updated.metadata) == (answer.choices, {"b": "2"})
    assert [one.id for one in api.chat.completions.list(metadata={"b": "2"})] == [answer.id]
    assert [one.id for one in api.chat.completions.list(metadata={"a": "1"})] == []
    assert api.chat.completions.update(answer.id, metadata=None).metadata == {}
    deleted = api.chat.completions.delete(answer.id)
    ChatCompletionDeleted.model_validate(deleted.model_dump(), strict=True)
    for call in (api.chat.completions.retrieve, api.chat.completions.delete, api.chat.completions.messages.list):
        with pytest.raises(openai.NotFoundError, match="No such chat completion"):
            call(answer.id)
    with pytest.raises(openai.NotFoundError):
        api.chat.completions.update(answer.id, metadata={})


def test_stored_completion_update_needs_metadata(client: TestClient, api: openai.OpenAI) -> None:
    """Nothing but the metadata can be sent."""
    url = f"/v1/chat/completions/{store(api).id}"
    assert client.post(url, json={}).json()["error"]["param"] == "metadata"
    assert client.post(url, json={"metadata": {}, "model": "x"}).json()["error"]["code"] == "unknown_parameter"


def test_stored_completions_are_listed_in_pages(api: openai.OpenAI) -> None:
    """Only stored completions, oldest first unless asked otherwise, and only those with the requested metadata."""
    first, second = store(api, **{'k"1': "v"}), store(api)
    api.chat.completions.create(model="gpt-4o-mini", messages=TURNS)
    page = api.chat.completions.list(limit=1)
    assert ([one.id for one in page.data], page.has_more) == ([first.id], True)
    assert [one.id for one in page] == [first.id, second.id]
    assert [one.id for one in api.chat.completions.list(order="desc")] == [second.id, first.id]
    assert [one.id for one in api.chat.completions.list(metadata={'k"1': "v"})] == [first.id]
    assert [one.id for one in api.chat.completions.list(model="other")] == []


def test_stored_completion_messages_are_those_of_the_request(api: openai.OpenAI) -> None:
    """In pages; a text of parts is in ``content_parts``."""
    answer = store(api)
    listed = list(api.chat.completions.messages.list(answer.id, limit=1))
    assert [one.id for one in listed] == [f"{answer.id}-{index}" for index in range(3)]
    assert [one.content for one in listed] == ["be brief", None, "again"]
    assert [one.content_parts is None for one in listed] == [True, False, True]
    newest = api.chat.completions.messages.list(answer.id, order="desc", after=listed[2].id, limit=1)
    assert ([one.id for one in newest.data], newest.has_more) == ([listed[1].id], True)
    with pytest.raises(openai.BadRequestError, match="No message with id"):
        api.chat.completions.messages.list(answer.id, after="other")


def test_stored_completions_are_hidden_from_other_owners(make_client: MakeClient, tmp_path: Path) -> None:
    """Neither listed, nor read, nor changed, nor deleted."""
    keys = tmp_path / "keys"
    keys.write_text("anna:sk-anna-0123456789\nben:sk-ben-0123456789\n")
    client = make_client(api_key_file=keys)
    anna, ben = (sdk(client, key=f"sk-{name}-0123456789") for name in ("anna", "ben"))
    answer = store(anna)
    assert list(ben.chat.completions.list()) == []
    for call in (ben.chat.completions.retrieve, ben.chat.completions.delete, ben.chat.completions.messages.list):
        with pytest.raises(openai.NotFoundError):
            call(answer.id)
    with pytest.raises(openai.NotFoundError):
        ben.chat.completions.update(answer.id, metadata={"a": "b"})
    assert anna.chat.completions.retrieve(answer.id).id == answer.id


@pytest.mark.parametrize("limit", ["MAX_STORED", "MAX_STORED_BYTES"])
def test_stored_completions_are_bounded(api: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """The oldest ones are deleted at the limit of their number and of their size."""
    first = store(api)
    size = len(canonical_json([TURNS, first.model_dump(exclude_unset=True)]))
    monkeypatch.setattr(stored_completions, limit, 2 if limit == "MAX_STORED" else 2 * size + size // 2)
    kept = [store(api).id for _ in range(4)]
    assert [one.id for one in api.chat.completions.list()] == kept[-2:]
