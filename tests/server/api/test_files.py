"""Files over HTTP: what is accepted, what is refused, and that nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.server.conftest import LINES, MakeClient, create_job, upload, wait_for


def test_files_content_is_unchanged(client: TestClient) -> None:
    """Upload, description and content agree."""
    file = upload(client)
    assert file["bytes"] == len(LINES)
    assert file["status"] == "processed"
    assert client.get(f"/v1/files/{file['id']}/content").content == LINES


@pytest.mark.parametrize(
    ("name", "content", "purpose", "code"),
    [
        ("a.txt", LINES, "fine-tune", "invalid_file_format"),
        ("a.jsonl", b"", "fine-tune", "empty_file"),
        ("a.jsonl", LINES, "nonsense", "invalid_value"),
        ("a.jsonl", LINES, "evals", "invalid_value"),
    ],
)
def test_files_create_refuses_what_openai_refuses(
    client: TestClient, tmp_path: Path, name: str, content: bytes, purpose: str, code: str
) -> None:
    """The answer names the parameter, and no bytes stay on the disk."""
    answer = client.post("/v1/files", data={"purpose": purpose}, files={"file": (name, content)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert list((tmp_path / "data" / "incoming").iterdir()) == []
    assert list((tmp_path / "data" / "files").iterdir()) == []


def test_files_create_names_missing_parameter(client: TestClient) -> None:
    """Both parameters are required."""
    without_purpose = client.post("/v1/files", files={"file": ("a.jsonl", LINES)})
    assert without_purpose.json()["error"]["param"] == "purpose"
    without_file = client.post("/v1/files", files={"purpose": (None, "batch")})
    assert without_file.json()["error"]["param"] == "file"


def test_files_list_pages_newest_first(client: TestClient) -> None:
    """Order, limit and cursor do what the description says."""
    ids = [upload(client)["id"] for _ in range(5)]
    page = client.get("/v1/files", params={"limit": 2}).json()
    assert [file["id"] for file in page["data"]] == ids[:2:-1]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[4], ids[3], True)
    rest = client.get("/v1/files", params={"after": ids[3]}).json()
    assert [file["id"] for file in rest["data"]] == ids[2::-1]
    upwards = client.get("/v1/files", params={"order": "asc", "limit": 1}).json()
    assert upwards["data"][0]["id"] == ids[0]
    assert client.get("/v1/files", params={"purpose": "batch"}).json()["data"] == []


@pytest.mark.parametrize("query", [{"limit": "-1"}, {"limit": "x"}, {"order": "up"}, {"after": "nothing"}])
def test_files_list_names_wrong_query_parameter(client: TestClient, query: dict[str, str]) -> None:
    """No wrong query is silently taken for another."""
    answer = client.get("/v1/files", params=query)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == next(iter(query))


def test_files_delete_keeps_running_job(client: TestClient, tmp_path: Path) -> None:
    """A job has its own link to the bytes."""
    file = upload(client)
    job = create_job(client, training_file=file["id"], extras={"fake_seconds": 0.05})
    assert client.delete(f"/v1/files/{file['id']}").json() == {"id": file["id"], "object": "file", "deleted": True}
    assert client.get(f"/v1/files/{file['id']}").status_code == 404
    assert not (tmp_path / "data" / "files" / file["id"]).exists()
    wait_for(client, job["id"], "succeeded")


def test_files_expires_at(client: TestClient) -> None:
    """The form's nested fields are understood in the way that the SDKs send them."""
    data = {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = client.post("/v1/files", data=data, files={"file": ("a.jsonl", b"x")}).json()
    assert file["expires_at"] == file["created_at"] + 3600
    data["expires_after[seconds]"] = "5"
    assert client.post("/v1/files", data=data, files={"file": ("a", b"x")}).status_code == 400


def test_files_create_over_limit_is_refused_and_removed(make_client: MakeClient, tmp_path: Path) -> None:
    """The limit holds while streaming, whatever the headers say."""
    client = make_client(max_file_bytes=1000)
    answer = client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("a.jsonl", b"x" * 5000)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "file_too_large")
    assert list((tmp_path / "data" / "incoming").iterdir()) == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b.jsonl", "C:\\x.jsonl", "\u202ex.jsonl"])
def test_files_filename_has_no_path(client: TestClient, tmp_path: Path, name: str) -> None:
    """A client's name is only ever shown, without folders and control characters."""
    shown = upload(client, name=name if name.endswith(".jsonl") else name + ".jsonl")["filename"]
    assert "/" not in shown
    assert "\\" not in shown
    assert shown.isprintable()


@pytest.mark.parametrize("file_id", ["..", "..%2f..%2fserver.db", "%00", "server.db", "a" * 5000])
def test_files_id_cannot_traverse(client: TestClient, file_id: str) -> None:
    """An unknown id is not found, whatever characters it has."""
    assert client.get(f"/v1/files/{file_id}/content").status_code == 404
    assert client.delete(f"/v1/files/{file_id}").status_code == 404
