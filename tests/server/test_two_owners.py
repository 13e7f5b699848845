"""Two owners with two keys: whatever route names a thing of the other one, it is not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server.conftest import MakeClient, create_job, upload, wait_for

ANNA, BEN = ({"Authorization": f"Bearer sk-{name}-0123456789"} for name in ("anna", "ben"))
SECRET = "the-secret-of-anna"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": SECRET}], "metadata": {"a": SECRET}}


@pytest.fixture
def client(make_client: MakeClient, tmp_path: Path) -> TestClient:
    """A server with two keys; Anna's is sent unless a request has another one."""
    (tmp_path / "keys").write_text("anna:sk-anna-0123456789\nben:sk-ben-0123456789\n")
    client = make_client(api_key_file=tmp_path / "keys")
    client.headers.update(ANNA)
    return client


@pytest.fixture
def things(client: TestClient) -> dict[str, str]:
    """What Anna has: the id for each parameter of a path."""
    job = wait_for(client, create_job(client)["id"], "succeeded")
    model = job["fine_tuned_model"]
    permission = client.post(f"/v1/fine_tuning/checkpoints/{model}/permissions", json={"project_ids": ["carl"]})
    line = {"custom_id": SECRET, "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
    form = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", json.dumps(line).encode())}}
    file = client.post("/v1/files", **form).json()["id"]  # type: ignore[arg-type]
    batch = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    begun = {"filename": "a.jsonl", "purpose": "batch", "bytes": 1, "mime_type": "x"}
    return {
        "file_id": file,
        "upload_id": client.post("/v1/uploads", json=begun).json()["id"],
        "job_id": job["id"],
        "checkpoint": model,
        "permission_id": permission.json()["data"][0]["id"],
        "model": model,
        "deployment": model,
        "completion_id": client.post("/v1/chat/completions", json={**CHAT, "store": True}).json()["id"],
        "response_id": client.post("/v1/responses", json={"model": "gpt-4o-mini", "input": SECRET}).json()["id"],
        "batch_id": client.post("/v1/batches", json=batch).json()["id"],
    }


BODIES: Mapping[str, Any] = {
    "/openai/deployments/{deployment}/chat/completions": {"messages": CHAT["messages"]},
    "/openai/deployments/{deployment}/completions": {"prompt": "x"},
    "/v1/chat/completions/{completion_id}": {"metadata": {"a": "ben"}},
    "/v1/fine_tuning/checkpoints/{checkpoint}/permissions": {"project_ids": ["ben"]},
    "/v1/uploads/{upload_id}/complete": {"part_ids": []},
}
"""What the routes need, so that they look for the thing that their path names."""


def test_no_route_reaches_what_another_owner_has(client: TestClient, things: dict[str, str]) -> None:
    """Each operation of the description that names a thing; nothing of it is read, changed or deleted."""
    paths = client.get("/openapi.json").json()["paths"]
    named = [(path, method) for path, item in paths.items() for method in item if "{" in path]
    assert len(named) > 25
    before = {path: client.get(path.format(**things)).text for path, method in named if method == "get"}
    for path, method in named:
        url = path.format(**things)
        options: dict[str, Any] = {"json": BODIES.get(path, {})} if method == "post" else {}
        if path.endswith("/parts"):
            options = {"files": {"data": b"x"}}
        answer = client.request(method, url, headers=BEN, **options)
        assert (answer.status_code, SECRET in answer.text) == (404, False), f"{method} {path}: {answer.text}"
    changing = ("/v1/batches/{batch_id}", "/v1/fine_tuning/jobs/{job_id}/events")
    for path, text in before.items():
        assert path in changing or client.get(path.format(**things)).text == text, path


def test_no_list_has_what_another_owner_has(client: TestClient, things: dict[str, str]) -> None:
    """A cursor of the other one is none, either."""
    for path in ("files", "fine_tuning/jobs", "chat/completions", "batches"):
        assert client.get(f"/v1/{path}").json()["data"]
        assert client.get(f"/v1/{path}", headers=BEN).json()["data"] == []
    for path, name in (("files", "file_id"), ("chat/completions", "completion_id"), ("batches", "batch_id")):
        assert client.get(f"/v1/{path}", params={"after": things[name]}, headers=BEN).status_code == 400
    models = [model["id"] for model in client.get("/v1/models", headers=BEN).json()["data"]]
    assert things["model"] not in models


def test_no_body_uses_what_another_owner_has(client: TestClient, things: dict[str, str]) -> None:
    """Conversations, items, files and models."""
    output = client.get(f"/v1/responses/{things['response_id']}").json()["output"]
    reference = [{"type": "item_reference", "id": output[0]["id"]}]
    question = {"model": "gpt-4o-mini", "input": "go on"}
    batch = {"input_file_id": things["file_id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    refused = [
        ("/v1/responses", {**question, "previous_response_id": things["response_id"]}),
        ("/v1/responses", {**question, "input": reference}),
        ("/v1/responses", {**question, "model": things["model"]}),
        ("/v1/responses/input_tokens", {**question, "previous_response_id": things["response_id"]}),
        ("/v1/responses/input_tokens", {**question, "input": reference}),
        ("/v1/chat/completions", {**CHAT, "model": things["model"]}),
        ("/v1/completions", {"model": things["model"], "prompt": "x"}),
        ("/v1/batches", batch),
        ("/v1/fine_tuning/jobs", {"model": "gpt-4o-mini", "training_file": upload(client)["id"]}),
        ("/v1/fine_tuning/jobs", {"model": things["model"], "training_file": upload(client, headers=BEN)["id"]}),
    ]
    for path, body in refused:
        answer = client.post(path, json=body, headers=BEN)
        assert answer.status_code in (400, 404), f"{path} {body}: {answer.text}"
        assert SECRET not in answer.text.replace(json.dumps(body), "")


def test_same_idempotency_key_of_two_owners_is_two_requests(client: TestClient) -> None:
    """The response of one is not replayed to the other."""
    body = {"filename": f"{SECRET}.jsonl", "purpose": "batch", "bytes": 1, "mime_type": "x"}
    key = {"Idempotency-Key": "k"}
    first = client.post("/v1/uploads", json=body, headers=key).json()
    second = client.post("/v1/uploads", json=body, headers={**BEN, **key})
    assert second.status_code == 200
    assert second.json()["id"] != first["id"]


def test_model_of_another_owner_cannot_score(client: TestClient) -> None:
    """Its own owner's graders can ask it."""
    model = wait_for(client, create_job(client)["id"], "succeeded")["fine_tuned_model"]
    judge = {"type": "score_model", "name": "j", "model": model, "input": [{"role": "user", "content": "x"}]}
    path = "/v1/fine_tuning/alpha/graders/validate"
    assert client.post(path, json={"grader": judge}).status_code == 200
    refused = client.post(path, json={"grader": judge}, headers=BEN)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "grader_model_not_found")
