"""``/openapi.json`` describes every route, and the tests' clients compare all responses with it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
from jsonschema import Draft202012Validator
from starlette.applications import Starlette
from starlette.testclient import TestClient

from ftpipe.server.http.route_table import ApiRoute
from tests.server.conftest import MakeClient
from tests.server.description_check import DescriptionCheck

KEY = "sk-anna-0123456789"


def described(client: TestClient) -> dict[str, Any]:
    """Methods and paths of the description."""
    paths = client.get("/openapi.json").json()["paths"]
    return {f"{method.upper()} {path}": one for path, item in paths.items() for method, one in item.items()}


def test_api_description_has_every_route(client: TestClient) -> None:
    """With a summary, a response, and an operation id that no other one has."""
    assert isinstance(client.app, Starlette)
    routes = {
        f"{method} {route.path.replace(':path', '')}"
        for route in client.app.routes
        if isinstance(route, ApiRoute)
        for method in (route.methods or set()) - {"HEAD"}
    }
    operations = described(client)
    assert routes | {
        "POST /openai/deployments/{deployment}/chat/completions",
        "POST /openai/deployments/{deployment}/completions",
    } == set(operations)
    assert all(isinstance(route, ApiRoute) for route in client.app.routes)
    ids = [one["operationId"] for one in operations.values()]
    assert len(set(ids)) == len(ids)
    refused = "POST /v1/responses/compact"
    for name, one in operations.items():
        assert one["summary"], name
        assert bool(one["responses"]["200"]["content"]) == (name != refused), name


def test_api_description_is_valid_json_schema(client: TestClient) -> None:
    """Every schema of it, and every reference leads to one."""
    document = client.get("/openapi.json").json()
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    references = set(re.findall(r'"\$ref": ?"#/components/([^"]+)"', json.dumps(document)))
    known = {f"{kind}/{name}" for kind, named in document["components"].items() for name in named}
    assert references <= known
    unused = {name for name in known - references if name.startswith("schemas/")}
    assert unused == set()
    assert not [name for name in known if "ftpipe" in name]  # two types of one name, told apart by their modules


def test_api_description_is_made_at_first_request(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    def build(builder: object) -> dict[str, Any]:
        made.append(builder)
        return {}

    monkeypatch.setattr("ftpipe.server.http.api_description._DocumentBuilder.build", build)
    client = make_client()
    client.get("/v1/models")
    assert made == []
    for _ in range(2):
        client.get("/openapi.json")
    assert len(made) == 1


def test_api_description_needs_no_key_and_names_where_one_is_needed(make_client: MakeClient, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"anna:{KEY}\n")
    guarded = make_client(api_key_file=tmp_path / "keys")
    document = guarded.get("/openapi.json").json()
    assert document["security"] == [{"bearer": []}, {"api-key": []}]
    public = {path for path, item in document["paths"].items() for one in item.values() if one.get("security") == []}
    assert public == {"/openapi.json", "/health", "/healthz"}
    for path in public:
        assert guarded.get(path).status_code == 200
        assert guarded.get(path, headers={"Host": "evil.example"}).status_code == 403
        assert guarded.get(path, headers={"Origin": "http://evil.example"}).status_code == 403


def test_api_description_without_keys_asks_for_none(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert "security" not in document
    assert "securitySchemes" not in document["components"]


def test_api_description_has_bodies_and_parameters_of_routes(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    schemas, paths = document["components"]["schemas"], document["paths"]
    for name in ("ChatRequest", "CompletionRequest", "CreateResponse", "ConversationRequest"):
        assert "model" in schemas[name]["required"]
    assert "model" not in schemas["ChatRequestOfDeployment"]["required"]
    assert schemas["ChatRequest"]["additionalProperties"] is False
    assert "keep_alive" in schemas["ChatRequest"]["properties"]
    assert "x_ftpipe" not in schemas["JobObject"]["required"]
    form = paths["/v1/files"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["purpose", "file"]
    parameters = {one["name"]: one["schema"] for one in paths["/v1/batches"]["get"]["parameters"]}
    assert parameters["limit"] == {"type": "integer", "minimum": 0, "maximum": 100, "default": 20}


SENT = {"model": "m", "prompt": "x", "n": 0}
"""A request that the description does not allow."""


def answer(body: object, *, url: str = "/v1/models", status: int = 200, method: str = "GET") -> httpx2.Response:
    return httpx2.Response(status, json=body, request=httpx2.Request(method, f"http://127.0.0.1{url}", json=SENT))


@pytest.mark.parametrize(
    "response",
    [
        answer({"object": "list", "data": [], "more": 1}),
        answer({"object": "list"}),
        answer({"object": "list", "data": [{"id": 1, "object": "model", "created": 0, "owned_by": "x"}]}),
        answer({}, url="/v1/nothing"),
        answer({"error": "no"}, status=404),
        answer({"id": "x", "object": "text_completion", "created": 1, "model": "m", "choices": [], "usage": None},
               url="/v1/completions", method="POST"),
    ],
)  # fmt: skip
def test_description_check_finds_what_is_not_described(client: TestClient, response: httpx2.Response) -> None:
    """The check that every test of the server's routes has can fail."""
    check = DescriptionCheck(client.get("/openapi.json").json())
    check(response)
    assert len(check.problems) == 1
