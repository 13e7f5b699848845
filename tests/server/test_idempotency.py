"""The same Idempotency-Key twice."""

from __future__ import annotations

from starlette.testclient import TestClient

from ftpipe.server.idempotency import InFlightKeys
from ftpipe.server.protocol import ApiError
from tests.server.conftest import LINES, MakeClient, upload


def test_idempotency_repeated_create_makes_one_job(client: TestClient) -> None:
    """The second answer is the first, and says so; it holds across a restart."""
    body = {"model": "gpt-4o-mini", "training_file": upload(client)["id"]}
    headers = {"Idempotency-Key": "k"}
    first = client.post("/v1/fine_tuning/jobs", json=body, headers=headers)
    again = client.post("/v1/fine_tuning/jobs", json=body, headers=headers)
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert len(client.get("/v1/fine_tuning/jobs").json()["data"]) == 1


def test_idempotency_key_survives_restart(make_client: MakeClient) -> None:
    """The answer lies in the database, with its effect."""
    headers = {"Idempotency-Key": "k"}
    first = upload(make_client(), headers=headers)
    assert upload(make_client(), headers=headers) == first


def test_idempotency_refuses_key_of_other_request(client: TestClient) -> None:
    """Also where only the file's content differs; and a failed request does not use a key up."""
    headers = {"Idempotency-Key": "k"}
    client.post("/v1/files", data={"purpose": "no"}, files={"file": ("a", LINES)}, headers=headers)
    upload(client, headers=headers)
    other = client.post(
        "/v1/files", data={"purpose": "fine-tune"}, files={"file": ("train.jsonl", LINES + LINES)}, headers=headers
    )
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_idempotency_key_in_flight_is_409() -> None:
    """The first request is still at work; another owner's key is another key."""
    flights = InFlightKeys()
    with flights.acquire("a", "k"), flights.acquire("b", "k"):
        try:
            with flights.acquire("a", "k"):
                code = 200
        except ApiError as exc:
            code = exc.status
    assert code == 409
    with flights.acquire("a", "k"):
        pass
