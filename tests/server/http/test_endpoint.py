"""Bodies and routes that are wrong in every way get a response in OpenAI's format, and none is a 5xx."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from ftpipe.server.cancellation import ActiveRequests, CancelToken
from ftpipe.server.http.disconnect import ComputedStream
from tests.examples import examples
from tests.server.conftest import MakeClient, assert_openai_error

JSON = {"Content-Type": "application/json"}
JOBS = "/v1/fine_tuning/jobs"


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
def test_endpoint_refuses_body_that_is_not_a_json_object(
    client: TestClient, content: bytes, headers: dict[str, str], status: int
) -> None:
    """With a content type that a web page cannot send by itself."""
    answer = client.post(JOBS, content=content, headers=headers)
    assert answer.status_code == status
    assert_openai_error(answer)


def test_endpoint_refuses_body_over_limit(make_client: MakeClient) -> None:
    """With and without a Content-Length that says so."""
    client = make_client(max_body_bytes=100)
    assert client.post(JOBS, content=b"x" * 101, headers=JSON).status_code == 413
    assert client.post(JOBS, content=iter([b"x" * 60] * 2), headers=JSON).status_code == 413


def test_endpoint_errors_have_openai_format(client: TestClient) -> None:
    """Clients read the code, also here."""
    for answer, status, code in (
        (client.get("/v1/nothing"), 404, "unknown_url"),
        (client.put("/v1/files"), 405, "method_not_supported"),
        (client.get(f"{JOBS}/ftjob-none"), 404, "fine_tune_not_found"),
        (client.post(f"{JOBS}/ftjob-none/cancel"), 404, "fine_tune_not_found"),
        (client.get("/v1/files/file-none"), 404, None),
    ):
        assert_openai_error(answer)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_endpoint_405_lists_all_methods(client: TestClient) -> None:
    """All of them, as the protocol wants it."""
    assert set(client.put("/v1/files").headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
def test_endpoint_stream_ends_when_client_disconnects(spec_version: str) -> None:
    """The generator is closed, in a thread: nothing is computed for a client that is gone."""
    closed_in: list[threading.Thread] = []

    def pieces() -> Iterator[str]:
        try:
            while True:
                yield "piece"
        finally:
            closed_in.append(threading.current_thread())

    async def respond() -> None:
        sent = 0
        disconnected = anyio.Event()

        async def receive() -> dict[str, Any]:
            await disconnected.wait()
            return {"type": "http.disconnect"}

        async def send(_message: Any) -> None:
            nonlocal sent
            sent += 1
            if sent == 3:
                disconnected.set()
                if spec_version == "2.4":
                    raise OSError

        scope = {"type": "http", "asgi": {"spec_version": spec_version}}
        with anyio.move_on_after(10):
            response = ComputedStream(pieces(), CancelToken(), ActiveRequests(), None, "text/plain")
            await response(scope, receive, send)
            while not closed_in:
                await anyio.sleep(0.01)

    anyio.run(respond)
    assert len(closed_in) == 1
    assert closed_in[0] is not threading.main_thread()


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["model", "training_file", "hyperparameters", "method", "messages", "grader", "metadata", "seed", "bytes",
     "filename", "purpose", "mime_type", "part_ids", "md5", "tools", "stop", "n", "model_sample", "item", "store"]
)  # fmt: skip  # fmt: skip
ROUTES = st.sampled_from(
    [JOBS, "/v1/uploads", "/v1/chat/completions", "/v1/fine_tuning/alpha/graders/run",
     "/v1/fine_tuning/alpha/graders/validate", "/v1/uploads/upload_x/complete",
     "/v1/fine_tuning/checkpoints/ft:x/permissions"]
)  # fmt: skip  # fmt: skip


@settings(max_examples=examples(60, 300), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(route=ROUTES, body=st.dictionaries(NAMES, VALUE, max_size=6))
def test_endpoint_random_body_is_never_5xx(client: TestClient, route: str, body: dict[str, Any]) -> None:
    """Anything may come; none of it is a 5xx."""
    try:
        answer = client.post(route, json=body)
    except UnicodeEncodeError:  # a lone surrogate cannot be sent
        return
    assert answer.status_code < 500, answer.text


@settings(max_examples=examples(40, 200), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(max_size=40), value=st.text(max_size=40), route=st.sampled_from([JOBS, "/v1/files", "/v1/models"]))
def test_endpoint_random_query_is_never_5xx(client: TestClient, name: str, value: str, route: str) -> None:
    """The same for queries."""
    try:
        answer = client.get(route, params={"limit": value, "after": value, name: value})
    except UnicodeEncodeError:
        return
    assert answer.status_code < 500, answer.text
