"""Batches with OpenAI's client: created, answered in the background, cancelled, and continued after a restart."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any, Final

import openai
import pytest
from openai.types import Batch
from starlette.testclient import TestClient

from ftpipe.errors import FtpipeError
from ftpipe.server.api.batches import COMPLETION_WINDOW_SECONDS
from ftpipe.server.batches import runner
from ftpipe.server.batches.input_file import MAX_LINES
from ftpipe.server.cancellation import RequestCancelledError
from ftpipe.server.clock import now
from tests.server.conftest import MakeClient, create_job, sdk, wait_for
from tests.server.fakes import FakeEngine

CHAT: Final = "/v1/chat/completions"
RESPONSES: Final = "/v1/responses"


@pytest.fixture
def api(client: TestClient) -> openai.OpenAI:
    """OpenAI's client."""
    return sdk(client)


def line(custom_id: str, *, url: str = CHAT, **changes: Any) -> dict[str, Any]:
    """One request of an input file."""
    messages = [{"role": "user", "content": custom_id}]
    prompts: dict[str, Any] = {
        CHAT: {"messages": messages},
        "/v1/completions": {"prompt": "x"},
        RESPONSES: {"input": custom_id},
    }
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": url,
        "body": {"model": "gpt-4o-mini", **prompts[url]} | changes,
    }


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


@pytest.mark.parametrize("endpoint", [CHAT, "/v1/completions", RESPONSES])
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


def test_batch_of_responses_stores_them_and_continues_conversations(api: openai.OpenAI, engine: FakeEngine) -> None:
    """As requests of a client would; items of another response and errors are in the words of a response."""
    first = api.responses.create(model="gpt-4o-mini", input="one")
    lines = (
        line("a", url=RESPONSES, previous_response_id=first.id, metadata={"a": "b"}),
        line("b", url=RESPONSES, store=False),
        line("c", url=RESPONSES, previous_response_id="resp_none"),
        line("d", url=RESPONSES, stream=True),
    )
    batch = wait_until(api, create(api, *lines, endpoint=RESPONSES).id, "completed")
    answers = {one["custom_id"]: one["response"]["body"] for one in content(api, batch.output_file_id)}
    assert answers["a"]["output"][0]["content"][0]["text"] == "hello there friend"
    assert api.responses.retrieve(answers["a"]["id"]).metadata == {"a": "b"}
    with pytest.raises(openai.NotFoundError):
        api.responses.retrieve(answers["b"]["id"])
    contexts = [[message["content"] for message in request.messages] for request in engine.requests]
    assert ["one", "hello there friend", "a"] in contexts
    errors = [one["response"]["body"]["error"] for one in content(api, batch.error_file_id)]
    assert [(one["param"], one["code"]) for one in errors] == [
        ("previous_response_id", "previous_response_not_found"),
        ("stream", "invalid_value"),
    ]


class Gate:
    """Lets the engine compute some tokens, and stops it before the next one."""

    def __init__(self, engine: FakeEngine, tokens: int) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self.error: FtpipeError | None = None
        """What the engine raises for the tokens behind the gate."""
        self._left = threading.Semaphore(tokens)
        engine.text = "one"
        engine.before_token = self._wait

    def _wait(self) -> None:
        if not self._left.acquire(blocking=False):
            self.reached.set()
            assert self.opened.wait(60)
            if self.error is not None:
                raise self.error


def test_batch_expires_with_answers_that_it_has(
    api: openai.OpenAI, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests without an answer get an error that says so; the answers before are in the output file."""
    late = [0]
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(runner, "now", lambda: now() + late[0])
    gate = Gate(engine, 3)
    batch = create(api, *(line(f"r{index}") for index in range(30)))
    assert gate.reached.wait(60)
    late[0] = COMPLETION_WINDOW_SECONDS
    gate.opened.set()
    ended = wait_until(api, batch.id, "expired", "completed")
    assert (ended.status, ended.expired_at is None, ended.completed_at) == ("expired", False, None)
    counts = ended.request_counts
    assert counts is not None
    assert counts.completed >= 3
    assert counts.completed + counts.failed == 30
    answered = [one["custom_id"] for one in content(api, ended.output_file_id)]
    errors = content(api, ended.error_file_id)
    assert {one["error"]["code"] for one in errors} == {"batch_expired"}
    assert sorted([*answered, *(one["custom_id"] for one in errors)]) == sorted(f"r{index}" for index in range(30))


def test_batch_that_the_server_cannot_survive_ends(
    make_client: MakeClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some starts in a row without an answer, the requests get an error, and the server can be used."""
    monkeypatch.setattr(runner, "MAX_STARTS_WITHOUT_ANSWER", 2)
    for _ in range(2):
        gate = Gate(engine, 0)
        client = make_client()
        api = sdk(client)
        batch_id = next((one.id for one in api.batches.list()), "") or create(api, line("a"), line("b")).id
        assert gate.reached.wait(60)
        gate.error = RequestCancelledError("the server dies here")
        gate.opened.set()
        client.__exit__(None, None, None)
    engine.requests.clear()
    api = sdk(make_client())
    ended = wait_until(api, batch_id, "completed")
    assert ended.output_file_id is None
    assert [one["error"]["code"] for one in content(api, ended.error_file_id)] == ["server_error"] * 2
    assert engine.requests == []


def test_batch_with_model_that_is_deleted_meanwhile(client: TestClient, api: openai.OpenAI, engine: FakeEngine) -> None:
    """Its answers are in the output; the other requests get an error, and the batch ends."""
    model = wait_for(client, create_job(client)["id"], "succeeded")["fine_tuned_model"]
    gate = Gate(engine, 3)
    batch = create(api, *(line(f"r{index}", model=model) for index in range(40)))
    assert gate.reached.wait(60)
    api.models.delete(model)
    gate.opened.set()
    ended = wait_until(api, batch.id, "completed")
    counts = ended.request_counts
    assert counts is not None
    assert counts.completed + counts.failed == 40
    assert counts.completed >= 3
    errors = content(api, ended.error_file_id)
    assert len(errors) >= 20
    assert {one["response"]["body"]["error"]["code"] for one in errors} == {"model_not_found"}


@pytest.fixture
def owners(make_client: MakeClient, tmp_path: Path) -> tuple[openai.OpenAI, openai.OpenAI]:
    """Clients of two owners of one server."""
    (tmp_path / "keys").write_text("anna:sk-anna-0123456789\nben:sk-ben-01234567890\n")
    client = make_client(api_key_file=tmp_path / "keys")
    return sdk(client, "sk-anna-0123456789"), sdk(client, "sk-ben-01234567890")


def test_batch_belongs_to_its_owner(owners: tuple[openai.OpenAI, openai.OpenAI]) -> None:
    """Another key neither sees it or its files, nor can cancel it, nor make one of the same input."""
    anna, ben = owners
    batch = wait_until(anna, create(anna, line("a"), line("b", n=0)).id, "completed")
    assert list(ben.batches.list()) == []
    assert list(ben.files.list()) == []
    for act in (ben.batches.retrieve, ben.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            act(batch.id)
    for file_id in (batch.input_file_id, batch.output_file_id, batch.error_file_id):
        assert file_id is not None
        for read in (ben.files.retrieve, ben.files.content, ben.files.delete):
            with pytest.raises(openai.NotFoundError):
                read(file_id)
    with pytest.raises(openai.BadRequestError, match="no such File"):
        ben.batches.create(input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h")
    with pytest.raises(openai.BadRequestError, match=batch.id):
        ben.batches.list(after=batch.id)


def test_batch_cannot_continue_conversation_of_another_owner(owners: tuple[openai.OpenAI, openai.OpenAI]) -> None:
    anna, ben = owners
    secret = anna.responses.create(model="gpt-4o-mini", input="anna's secret")
    items = [{"type": "item_reference", "id": secret.output[0].id}]
    lines = (
        line("a", url=RESPONSES, previous_response_id=secret.id),
        line("b", url=RESPONSES, input=items),
    )
    batch = wait_until(ben, create(ben, *lines, endpoint=RESPONSES).id, "completed")
    assert batch.output_file_id is None
    assert [one["response"]["status_code"] for one in content(ben, batch.error_file_id)] == [400, 404]


def test_batch_input_of_blank_lines_is_refused_soon(api: openai.OpenAI) -> None:
    """A file of 200 million line ends would keep the batches of all others waiting."""
    file = api.files.create(file=("in.jsonl", b"\n" * (MAX_LINES + 10)), purpose="batch")
    batch = api.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    ended = wait_until(api, batch.id, "failed")
    assert ended.errors is not None
    assert [one.code for one in ended.errors.data or ()] == ["too_many_lines"]
