"""Batches with OpenAI's client: created, answered in the background, cancelled, and continued after a restart."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import openai
import pytest
from openai.types import Batch
from starlette.testclient import TestClient

from tests.server.conftest import MakeClient, sdk
from tests.server.fakes import FakeEngine

CHAT = "/v1/chat/completions"


@pytest.fixture
def api(client: TestClient) -> openai.OpenAI:
    """OpenAI's client."""
    return sdk(client)


def line(custom_id: str, *, url: str = CHAT, **changes: Any) -> dict[str, Any]:
    """One request of an input file."""
    prompt = {"prompt": "x"} if url == "/v1/completions" else {"messages": [{"role": "user", "content": custom_id}]}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "gpt-4o-mini", **prompt} | changes}


def create(api: openai.OpenAI, *lines: Any, endpoint: str = CHAT, **changes: Any) -> Batch:
    """Upload an input file, and create a batch of it."""
    content = "".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in lines).encode()
    file = api.files.create(file=("in.jsonl", content), purpose="batch")
    return api.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", **changes  # type: ignore[arg-type]
    )  # fmt: skip


def wait_until(api: openai.OpenAI, batch_id: str, *statuses: str) -> Batch:
    """Poll a batch until it has one of these statuses."""
    deadline = time.monotonic() + 20
    while (batch := api.batches.retrieve(batch_id)).status not in statuses:
        assert time.monotonic() < deadline, batch
        time.sleep(0.02)
    Batch.model_validate(batch.model_dump(), strict=True)
    return batch


def content(api: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of an output or error file."""
    assert file_id is not None
    return [json.loads(one) for one in api.files.content(file_id).text.splitlines()]


@pytest.mark.parametrize("endpoint", [CHAT, "/v1/completions"])
def test_batch_answers_requests_of_file(api: openai.OpenAI, engine: FakeEngine, endpoint: str) -> None:
    """In the order of the file, at lowest priority; the files are the owner's."""
    batch = create(
        api, *(line(f"r{index}", url=endpoint) for index in range(20)), endpoint=endpoint, metadata={"a": "b"}
    )
    assert (batch.status, batch.metadata, batch.output_file_id) == ("validating", {"a": "b"}, None)
    ended = wait_until(api, batch.id, "completed")
    assert ended.request_counts is not None
    assert ended.request_counts.model_dump() == {"total": 20, "completed": 20, "failed": 0}
    assert ended.usage is not None
    assert (ended.usage.input_tokens, ended.usage.output_tokens, ended.error_file_id) == (140, 60, None)
    answers = content(api, ended.output_file_id)
    assert [one["custom_id"] for one in answers] == [f"r{index}" for index in range(20)]
    assert {one["response"]["status_code"] for one in answers} == {200}
    assert {request.priority for request in engine.requests} == {"batch"}
    assert [file.purpose for file in api.files.list(purpose="batch_output")] == ["batch_output"]
    assert [one.id for one in api.batches.list()] == [batch.id]


def test_batch_puts_failed_requests_into_error_file(api: openai.OpenAI) -> None:
    batch = wait_until(api, create(api, line("a"), line("b", n=0), line("c", stream=True)).id, "completed")
    assert [one["custom_id"] for one in content(api, batch.output_file_id)] == ["a"]
    errors = content(api, batch.error_file_id)
    assert [(one["custom_id"], one["response"]["body"]["error"]["param"]) for one in errors] == [
        ("b", "n"),
        ("c", "stream"),
    ]


@pytest.mark.parametrize(
    ("lines", "errors"),
    [
        (("nonsense", "[]"), [(1, "invalid_json_line"), (2, "invalid_json_line")]),
        ((line("a"), "", line("a")), [(3, "duplicate_custom_id")]),
        ((line("a", url="/v1/completions"),), [(1, "url_mismatch")]),
        ((line("a"), line("b", model="org/name")), [(2, "model_mismatch")]),
        ((line("a", model="no-such-model"),), [(1, "model_not_found")]),
        ((line("a") | {"method": "GET"}, line("b") | {"body": 1}), [(1, "invalid_request"), (2, "invalid_request")]),
        (("", ""), [(None, "empty_file")]),
    ],
)
def test_batch_with_wrong_file_fails(api: openai.OpenAI, lines: Any, errors: Any) -> None:
    """Before anything is answered; each error names its line."""
    batch = wait_until(api, create(api, *lines).id, "failed")
    assert batch.errors is not None
    assert [(one.line, one.code) for one in batch.errors.data or ()] == errors


def test_batch_is_cancelled_with_answers_that_it_has(api: openai.OpenAI, engine: FakeEngine) -> None:
    """The requests that are being answered end at once."""
    started, go_on = threading.Semaphore(0), threading.Event()

    def wait() -> None:
        started.release()
        go_on.wait(20)

    batch = create(api, *(line(f"r{index}") for index in range(30)))
    wait_until(api, batch.id, "completed")
    engine.before_token = wait
    second = create(api, *(line(f"r{index}") for index in range(30)))
    assert started.acquire(timeout=20)
    cancelled = api.batches.cancel(second.id)
    assert cancelled.status == "cancelling"
    go_on.set()
    ended = wait_until(api, second.id, "cancelled")
    assert ended.request_counts is not None
    assert ended.request_counts.completed < 30
    with pytest.raises(openai.BadRequestError, match="completed"):
        api.batches.cancel(batch.id)


def assert_set(event: threading.Event) -> None:
    assert event.wait(60)


def test_batch_continues_after_restart(make_client: MakeClient, engine: FakeEngine) -> None:
    """What has an answer is not computed again, also if the input file was deleted meanwhile."""
    done, go_on = threading.Semaphore(0), threading.Event()
    engine.text = "one"

    def wait() -> None:
        if len(engine.requests) > 16:
            done.release()
            go_on.wait(0.2)

    engine.before_token = wait
    client = make_client()
    api = sdk(client)
    batch = create(api, *(line(f"r{index}") for index in range(40)))
    assert done.acquire(timeout=20)
    api.files.delete(batch.input_file_id)
    client.__exit__(None, None, None)
    before, counted = len(engine.requests), threading.Event()
    engine.before_token = lambda: assert_set(counted)
    again = sdk(make_client())
    counts = again.batches.retrieve(batch.id).request_counts
    assert counts is not None
    counted.set()
    ended = wait_until(again, batch.id, "completed")
    lines = content(again, ended.output_file_id)
    assert [one["custom_id"] for one in lines] == [f"r{index}" for index in range(40)]
    assert len(engine.requests) - before <= 40 - counts.completed
