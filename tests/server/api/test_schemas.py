"""Bodies and routes that are wrong in every way: each is an answer in OpenAI's shape, and none is a fault."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.server.conftest import MakeClient, upload

JSON = {"Content-Type": "application/json"}
JOBS = "/v1/fine_tuning/jobs"


def check_shape(answer: Any) -> None:
    """An error has the four fields, whatever it is about."""
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", JSON, 400),
        (b"[]", JSON, 400),
        (b"null", JSON, 400),
        (b'{"model": NaN}', JSON, 400),
        (b'{"model": "\\ud800"}', JSON, 400),
        (b"[" * 100_000, JSON, 400),
        (b"\xff\xfe", JSON, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"model=x", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (b"x", JSON | {"Content-Encoding": "gzip"}, 415),
        (b"", JSON, 400),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(
    client: TestClient, content: bytes, headers: dict[str, str], status: int
) -> None:
    """With a content type that a web page cannot send by itself."""
    answer = client.post(JOBS, content=content, headers=headers)
    assert answer.status_code == status
    check_shape(answer)


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"x", "multipart/form-data", 400),
        (b"x", "application/json", 400),
        (b"x", "multipart/form-data; boundary=b", 400),
        (b"--b\r\n\r\n--b--\r\n", "multipart/form-data; boundary=b", 400),
        (b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n\xff\r\n--b--\r\n',
         "multipart/form-data; boundary=b", 400),
        (b'--b\r\nContent-Disposition: form-data; name="x\xff\xf2"\r\n\r\n1\r\n--b--\r\n',
         "multipart/form-data; boundary=b", 400),
        (b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nno end',
         "multipart/form-data; boundary=b", 400),
        (b"--b\r\n" + b"X" * 20_000 + b": y\r\n\r\n", "multipart/form-data; boundary=b", 400),
        (b'--b\r\nContent-Disposition: form-data; name="p"\r\n\r\n' + b"x" * 20_000 + b"\r\n--b--\r\n",
         "multipart/form-data; boundary=b", 413),
        ((b'--b\r\nContent-Disposition: form-data; name="p"\r\n\r\nx\r\n') * 20 + b"--b--\r\n",
         "multipart/form-data; boundary=b", 413),
    ],
)  # fmt: skip
def test_a_form_that_is_broken_or_too_large_is_refused(
    client: TestClient, content: bytes, kind: str, status: int
) -> None:
    """Every part of it has a limit."""
    answer = client.post("/v1/files", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status
    check_shape(answer)


def test_a_body_over_the_limit_is_refused(make_client: MakeClient) -> None:
    """With and without a Content-Length that says so."""
    client = make_client(max_body_bytes=100)
    assert client.post(JOBS, content=b"x" * 101, headers=JSON).status_code == 413
    assert client.post(JOBS, content=iter([b"x" * 60] * 2), headers=JSON).status_code == 413


def test_unknown_urls_and_methods_are_told_in_the_same_shape(client: TestClient) -> None:
    """Clients read the code, also here."""
    for answer, status, code in (
        (client.get("/v1/nothing"), 404, "unknown_url"),
        (client.put("/v1/files"), 405, "method_not_supported"),
        (client.get(f"{JOBS}/ftjob-none"), 404, "fine_tune_not_found"),
        (client.post(f"{JOBS}/ftjob-none/cancel"), 404, "fine_tune_not_found"),
        (client.get("/v1/files/file-none"), 404, None),
    ):
        check_shape(answer)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_the_methods_of_a_url_are_told(client: TestClient) -> None:
    """All of them, as the protocol wants it."""
    assert set(client.put("/v1/files").headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"model": None}, "model", "invalid_type"),
        ({"training_file": "file-none"}, "training_file", "file_not_found"),
        ({"validation_file": "file-none"}, "validation_file", "file_not_found"),
        ({"model": "llama"}, "model", "model_not_available"),
        ({"model": "ft:gpt-4o:local::12345678"}, "model", "model_not_available"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", "invalid_value"),
        ({"hyperparameters": {"n_epochs": True}}, "hyperparameters.n_epochs", "invalid_type"),
        ({"hyperparameters": {"learning_rate_multiplier": 0}}, "hyperparameters.learning_rate_multiplier", None),
        ({"hyperparameters": {"beta": 0.5}}, "method.supervised.hyperparameters.beta", "unknown_parameter"),
        ({"hyperparameters": {"x": {"a": 1}}}, "hyperparameters.x", None),
        ({"method": {"type": "magic"}}, "method.type", "invalid_value"),
        ({"method": {"type": "reinforcement", "reinforcement": {"grader": {}}}}, "method.type", "model_not_available"),
        ({"seed": -1}, "seed", "invalid_value"),
        ({"seed": 10**30}, "seed", None),
        ({"suffix": ""}, "suffix", None),
        ({"suffix": "x" * 65}, "suffix", None),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", None),
        ({"metadata": {"a": "x" * 513}}, "metadata.a", None),
        ({"nonsense": 1}, "nonsense", "unknown_parameter"),
    ],
)
def test_a_wrong_parameter_of_a_job_is_named(
    client: TestClient, changes: dict[str, Any], param: str, code: str | None
) -> None:
    """By its path, with a stable code."""
    body = {"model": "gpt-4o-mini", "training_file": upload(client)["id"]} | changes
    answer = client.post(JOBS, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert code is None or error["code"] == code


def test_a_file_for_another_purpose_cannot_be_trained_on(client: TestClient) -> None:
    """The purpose is asked for at upload, and kept to."""
    file = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", b"{}")}).json()
    answer = client.post(JOBS, json={"model": "gpt-4o-mini", "training_file": file["id"]})
    assert answer.json()["error"]["code"] == "invalid_file_purpose"


def test_mixed_metadata_filters_are_refused(client: TestClient) -> None:
    """The two forms exclude each other."""
    assert client.get(JOBS, params={"metadata": "null", "metadata[a]": "b"}).status_code == 400
    assert client.get(JOBS, params={"metadata": "x"}).status_code == 400


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["model", "training_file", "hyperparameters", "method", "messages", "grader", "metadata", "seed", "bytes",
     "filename", "purpose", "mime_type", "part_ids", "md5", "tools", "stop", "n", "model_sample", "item", "store"]
)  # fmt: skip
ROUTES = st.sampled_from(
    [JOBS, "/v1/uploads", "/v1/chat/completions", "/v1/fine_tuning/alpha/graders/run",
     "/v1/fine_tuning/alpha/graders/validate", "/v1/uploads/upload_x/complete",
     "/v1/fine_tuning/checkpoints/ft:x/permissions"]
)  # fmt: skip


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(route=ROUTES, body=st.dictionaries(NAMES, VALUE, max_size=6))
def test_no_body_makes_the_server_stumble(client: TestClient, route: str, body: dict[str, Any]) -> None:
    """Anything may come; none of it is a 5xx."""
    try:
        answer = client.post(route, json=body)
    except UnicodeEncodeError:  # a lone surrogate cannot be sent
        return
    assert answer.status_code < 500, answer.text


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(max_size=40), value=st.text(max_size=40), route=st.sampled_from([JOBS, "/v1/files", "/v1/models"]))
def test_no_query_makes_the_server_stumble(client: TestClient, name: str, value: str, route: str) -> None:
    """The same for queries."""
    try:
        answer = client.get(route, params={"limit": value, "after": value, name: value})
    except UnicodeEncodeError:
        return
    assert answer.status_code < 500, answer.text
