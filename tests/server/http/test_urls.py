"""Other forms of a URL, Azure's paths, and the sentence about what is not served."""

from __future__ import annotations

import re
from pathlib import Path

import openai
import pytest
from starlette.testclient import TestClient

from ftpipe.server.http.urls import NOT_SERVED, served_path
from tests.server.conftest import LINES, MakeClient, assert_openai_error, create_job
from tests.server.fakes import FakeEngine

LISTS = ("/v1/models", "/v1/files", "/v1/fine_tuning/jobs", "/v1/chat/completions", "/v1/fine_tuning/model_limits")
HELLO = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("url", LISTS)
def test_list_with_slash_at_end_or_empty_cursor_is_the_list(client: TestClient, url: str) -> None:
    job = create_job(client)
    assert client.get(f"/v1/fine_tuning/jobs/{job['id']}/").json()["id"] == job["id"]
    plain = client.get(url)
    assert plain.status_code == 200
    for other in (f"{url}/", f"{url}?after=", f"{url}/?after="):
        answer = client.get(other, follow_redirects=False)
        assert (answer.status_code, answer.json().keys()) == (200, plain.json().keys())


@pytest.mark.parametrize("kind", ["events", "checkpoints"])
def test_list_of_job_takes_empty_cursor(client: TestClient, kind: str) -> None:
    url = f"/v1/fine_tuning/jobs/{create_job(client)['id']}/{kind}"
    assert client.get(f"{url}/", params={"after": ""}, follow_redirects=False).status_code == 200
    assert client.get(url, params={"after": "none"}).status_code == 400


@pytest.mark.parametrize(
    ("path", "served"),
    [
        ("/openai/v1/chat/completions", ("/v1/chat/completions", None)),
        ("/openai/files", ("/v1/files", None)),
        ("/openai/deployments/ft:a:b::c/chat/completions", ("/v1/chat/completions", "ft:a:b::c")),
        ("/openai/deployments/org/name/completions/", ("/v1/completions", "org/name")),
        ("/openai/deployments//chat/completions", ("/v1/chat/completions", None)),
        ("/openai/deployments/m/embeddings", ("/v1/embeddings", None)),
        ("/openai", ("/openai", None)),
        ("/", ("/", None)),
    ],
)
def test_served_path(path: str, served: tuple[str, str | None]) -> None:
    assert served_path(path) == served


@pytest.mark.parametrize("deployment", [None, "smollm2-135m-instruct"])
def test_azure_sdk_chats_and_manages_jobs(
    make_client: MakeClient, engine: FakeEngine, tmp_path: Path, deployment: str | None
) -> None:
    """With its key header and ``api-version``; the model in the path takes the place of the one in the body."""
    (tmp_path / "keys").write_text("anna:sk-anna-0123456789\n")
    azure = openai.AzureOpenAI(
        azure_endpoint="http://127.0.0.1",
        azure_deployment=deployment,
        api_key="sk-anna-0123456789",
        api_version="2025-04-01-preview",
        http_client=make_client(api_key_file=tmp_path / "keys"),
    )
    answer = azure.chat.completions.create(
        model="not-here" if deployment else "smollm2-135m-instruct", messages=[{"role": "user", "content": "hi"}]
    )
    assert answer.model == "smollm2-135m-instruct"
    assert answer.choices[0].message.content == engine.text
    with azure.chat.completions.create(
        model="smollm2-135m-instruct", messages=[{"role": "user", "content": "hi"}], stream=True
    ) as stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == engine.text
    file = azure.files.create(file=("train.jsonl", LINES), purpose="fine-tune")
    job = azure.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file.id)
    assert [each.id for each in azure.fine_tuning.jobs.list()] == [job.id]
    assert "smollm2-135m-instruct" in [model.id for model in azure.models.list()]


def test_azure_v1_path_serves_openai_client(client: TestClient, engine: FakeEngine) -> None:
    """The newer form, with the ordinary client."""
    plain = openai.OpenAI(base_url="http://127.0.0.1/openai/v1/", api_key="none", http_client=client)
    answer = plain.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == engine.text


def test_azure_deployment_name_takes_the_place_of_the_model(client: TestClient) -> None:
    answer = client.post("/openai/deployments/no-such/chat/completions", json={"model": "gpt-4o", "messages": HELLO})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("name", NOT_SERVED)
def test_unserved_route_says_why(client: TestClient, name: str) -> None:
    for answer in (
        client.post(f"/v1/{name}", json={}),
        client.get(f"/v1/{name}/some/id"),
        client.post(f"/openai/{name}"),
    ):
        assert answer.status_code == 404
        assert_openai_error(answer)
        assert answer.json()["error"]["message"] == NOT_SERVED[name]


@pytest.mark.parametrize(
    ("url", "words"), [("/chat/completions", "/v1"), ("/api/chat", "Ollama"), ("/v1/x", "POST /v1/x")]
)
def test_unknown_url_says_what_may_be_meant(client: TestClient, url: str, words: str) -> None:
    answer = client.post(url, json={})
    assert answer.status_code == 404
    assert_openai_error(answer)
    assert words in answer.json()["error"]["message"]


def test_unserved_route_names_routes_that_exist(client: TestClient) -> None:
    named = {url for message in NOT_SERVED.values() for url in re.findall(r"/v1/[a-z_/]+", message)}
    assert named
    for url in named:
        assert client.put(url).status_code == 405, url


def test_healthz_is_the_health(client: TestClient) -> None:
    assert client.get("/healthz").json() == client.get("/health").json()


def test_deployment_path_only_takes_requests(client: TestClient) -> None:
    """A list of stored chats there would be that of all models."""
    answer = client.get("/openai/deployments/m/chat/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
