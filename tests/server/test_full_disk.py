"""A database that cannot be written, as on a full disk: clients get an error, and a batch goes on afterwards."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from ftpipe.errors import LocalStateError
from ftpipe.server.batches import runner
from ftpipe.server.storage.batches import BatchRepository
from ftpipe.server.storage.repositories import Repository
from tests.server.api.test_batches import content, create, line, wait_until
from tests.server.conftest import sdk
from tests.server.fakes import FakeEngine

CHAT: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "store": True}
RESPONSE: dict[str, Any] = {"model": "gpt-4o-mini", "input": "hi"}


@pytest.fixture
def full_disk(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """No row can be added."""

    def add(*_args: object) -> None:
        message = "the database cannot be written: database or disk is full"
        raise LocalStateError(message)

    monkeypatch.setattr(Repository, "add", add)
    return client


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/responses", RESPONSE)])
def test_answer_that_cannot_be_stored_is_503(full_disk: TestClient, path: str, body: dict[str, Any]) -> None:
    answer = full_disk.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/responses", RESPONSE)])
def test_stream_that_cannot_be_stored_ends_with_error(full_disk: TestClient, path: str, body: dict[str, Any]) -> None:
    """Its last event is the error, as OpenAI sends it; the text was sent before."""
    answer = full_disk.post(path, json={**body, "stream": True})
    events = [json.loads(one) for one in answer.text.split("data: ")[1:] for one in [one.partition("\n")[0]]]
    assert answer.status_code == 200
    assert "friend" in answer.text
    assert events[-1].get("error", events[-1])["code"] == "storage_unavailable"
    assert "response.completed" not in answer.text


def test_batch_goes_on_when_there_is_room_again(
    client: TestClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request has one answer in the end, however often it could not be stored."""
    monkeypatch.setattr(runner, "ERROR_BACKOFF_SECONDS", 0.0)
    store, failures = BatchRepository.add_answer, iter(range(12))

    def add_answer(self: BatchRepository, *args: Any, **values: Any) -> None:
        if next(failures, None) is not None:
            message = "the database cannot be written: database or disk is full"
            raise LocalStateError(message)
        store(self, *args, **values)

    monkeypatch.setattr(BatchRepository, "add_answer", add_answer)
    api: openai.OpenAI = sdk(client)
    batch = wait_until(api, create(api, *(line(f"r{index}") for index in range(10))).id, "completed")
    assert [one["custom_id"] for one in content(api, batch.output_file_id)] == [f"r{index}" for index in range(10)]
    assert len(engine.requests) == 22
