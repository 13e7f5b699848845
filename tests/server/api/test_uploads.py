"""Uploads in parts."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server.conftest import LINES, MakeClient


def announce(client: TestClient, size: int = len(LINES), **changes: Any) -> dict[str, Any]:
    """Create an upload."""
    body = {"filename": "a.jsonl", "purpose": "fine-tune", "bytes": size, "mime_type": "text/jsonl"} | changes
    answer = client.post("/v1/uploads", json=body)
    assert answer.status_code == 200, answer.text
    described: dict[str, Any] = answer.json()
    return described


def send(client: TestClient, upload_id: str, piece: bytes) -> str:
    """Send one part."""
    answer = client.post(f"/v1/uploads/{upload_id}/parts", files={"data": ("blob", piece)})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def test_upload_joins_parallel_parts_in_requested_order(client: TestClient, tmp_path: Path) -> None:
    """The order of arrival does not matter; the MD5 is checked; the parts are removed."""
    upload = announce(client)
    pieces = [LINES[start : start + 100] for start in range(0, len(LINES), 100)]
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda piece: send(client, upload["id"], piece), pieces))
    body = {"part_ids": ids, "md5": hashlib.md5(LINES).hexdigest()}
    done = client.post(f"/v1/uploads/{upload['id']}/complete", json=body).json()
    assert done["status"] == "completed"
    assert done["file"]["bytes"] == len(LINES)
    assert client.get(f"/v1/files/{done['file']['id']}/content").content == LINES
    assert list((tmp_path / "data" / "uploads").iterdir()) == []
    again = client.post(f"/v1/uploads/{upload['id']}/complete", json=body).json()
    assert again["file"]["id"] == done["file"]["id"]


def test_upload_complete_refuses_wrong_size_md5_or_part(client: TestClient) -> None:
    """No file is made from parts that do not match the announcement."""
    upload = announce(client)
    part = send(client, upload["id"], LINES)
    url = f"/v1/uploads/{upload['id']}/complete"
    bodies: list[dict[str, Any]] = [
        {"part_ids": [part], "md5": "0" * 32},
        {"part_ids": []},
        {"part_ids": [part, part]},
        {"part_ids": ["part_x"]},
    ]
    codes = [client.post(url, json=body).json()["error"]["code"] for body in bodies]
    assert codes == ["checksum_mismatch", "invalid_upload_size", "invalid_value", "invalid_value"]
    assert client.post(url, json={"part_ids": [part]}).status_code == 200


def test_upload_cancelled_refuses_parts(client: TestClient, tmp_path: Path) -> None:
    """Its parts are removed, and it cannot be completed."""
    upload = announce(client)
    part = send(client, upload["id"], LINES)
    assert client.post(f"/v1/uploads/{upload['id']}/cancel").json()["status"] == "cancelled"
    assert client.post(f"/v1/uploads/{upload['id']}/cancel").status_code == 200
    answer = client.post(f"/v1/uploads/{upload['id']}/parts", files={"data": ("blob", b"x")})
    assert answer.json()["error"]["code"] == "invalid_upload_status"
    assert client.post(f"/v1/uploads/{upload['id']}/complete", json={"part_ids": [part]}).status_code == 400
    assert list((tmp_path / "data" / "uploads").iterdir()) == []


def test_upload_expires(make_client: MakeClient) -> None:
    """After its time an upload takes nothing more, and says why."""
    client = make_client(upload_seconds=0)
    upload = announce(client)
    assert upload["status"] == "expired"
    answer = client.post(f"/v1/uploads/{upload['id']}/parts", files={"data": ("blob", b"x")})
    assert "expired" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "changes", [{"bytes": -1}, {"bytes": 10**30}, {"bytes": "5"}, {"purpose": "user_data"}, {"filename": "a.txt"}]
)
def test_upload_create_refuses_wrong_parameter(client: TestClient, changes: dict[str, Any]) -> None:
    """Also numbers that no database takes."""
    body = {"filename": "a.jsonl", "purpose": "fine-tune", "bytes": 5, "mime_type": "x"} | changes
    assert client.post("/v1/uploads", json=body).status_code == 400


def test_upload_refuses_part_over_limit(make_client: MakeClient) -> None:
    """The limit is that of one part."""
    client = make_client(max_part_bytes=10)
    upload = announce(client)
    answer = client.post(f"/v1/uploads/{upload['id']}/parts", files={"data": ("blob", b"x" * 11)})
    assert answer.status_code == 413
