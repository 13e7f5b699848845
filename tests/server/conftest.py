"""A server in this process for each test, with a fake engine and a real, small trainer process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from starlette.testclient import TestClient

from ftpipe.server.http import create_app
from ftpipe.server.services import build_context
from ftpipe.server.settings import ServeSettings
from tests.server.description_check import DescriptionCheck, document_of
from tests.server.fakes import FAKE_TRAINER, FakeBaseModels, FakeEngine, FakeValidation

LINES = b'{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}\n' * 10

MakeClient = Callable[..., TestClient]


@pytest.fixture
def engine() -> FakeEngine:
    """The engine behind the server."""
    return FakeEngine()


@pytest.fixture
def make_client(tmp_path: Path, engine: FakeEngine) -> Iterator[MakeClient]:
    """Starts servers; keyword arguments are settings. All are stopped in the end, and have answered as described."""
    running: list[TestClient] = []
    checks: list[DescriptionCheck] = []

    def make(*, bases: FakeBaseModels | None = None, **changes: Any) -> TestClient:
        options: dict[str, Any] = {
            "data_dir": tmp_path / "data",
            "trainer_command": FAKE_TRAINER,
            "poll_interval": 0.02,
        }
        settings = ServeSettings(**(options | changes))
        context = build_context(
            settings, engine=engine, base_models=bases or FakeBaseModels(), start_validation=FakeValidation
        )
        app = create_app(context)
        client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
        checks.append(DescriptionCheck(document_of(app)))
        client.event_hooks = {"response": [checks[-1]]}
        client.__enter__()
        running.append(client)
        return client

    yield make
    for client in running:
        client.__exit__(None, None, None)
    assert [problem for check in checks for problem in check.problems] == []


@pytest.fixture
def client(make_client: MakeClient) -> TestClient:
    """A server with the usual settings."""
    return make_client()


def sdk(client: TestClient, key: str = "none") -> openai.OpenAI:
    """OpenAI's client at a server of ``make_client``; nothing is sent twice."""
    return openai.OpenAI(base_url="http://127.0.0.1/v1", api_key=key, http_client=client, max_retries=0)


def upload(client: TestClient, content: bytes = LINES, name: str = "train.jsonl", **options: Any) -> dict[str, Any]:
    """Upload a training file."""
    answer = client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": (name, content)}, **options)
    assert answer.status_code == 200, answer.text
    described: dict[str, Any] = answer.json()
    return described


def create_job(client: TestClient, *, extras: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """Create a job on a fresh file."""
    body = {"model": "gpt-4o-mini", "training_file": fields.pop("training_file", None) or upload(client)["id"]}
    answer = client.post("/v1/fine_tuning/jobs", json=body | {"hyperparameters": extras or {}} | fields)
    assert answer.status_code == 200, answer.text
    described: dict[str, Any] = answer.json()
    return described


def wait_for(client: TestClient, job_id: str, *statuses: str, seconds: float = 20) -> dict[str, Any]:
    """Poll a job until it has one of these statuses, or is ``paused``."""
    deadline = time.monotonic() + seconds
    while True:
        job: dict[str, Any] = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
        if ("paused" if "x_ftpipe" in job else job["status"]) in statuses:
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.02)


def assert_openai_error(answer: httpx2.Response) -> None:
    """An error response has the four fields, whatever it is about."""
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
