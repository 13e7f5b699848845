"""Keys, owners, and the Host and Origin check."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ftpipe.cli import run
from ftpipe.errors import ConfigError, UsageError
from ftpipe.server.auth import ApiKeys, build_host_policy, load_api_keys, require_keys_if_exposed
from ftpipe.server.protocol import ApiError
from ftpipe.server.settings import ServeSettings
from tests.server.conftest import MakeClient, create_job, upload, wait_for

ANNA = {"Authorization": "Bearer sk-anna-0123456789"}
BEN = {"Authorization": "Bearer sk-ben-0123456789"}


@pytest.fixture
def guarded(make_client: MakeClient, tmp_path: Path) -> TestClient:
    """A server with two keys."""
    keys = tmp_path / "keys"
    keys.write_text("# two of us\nanna:sk-anna-0123456789\nben:sk-ben-0123456789\n")
    return make_client(api_key_file=keys)


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer no"}, {"Authorization": "Basic sk-anna-0123456789"}])
def test_auth_refuses_missing_or_wrong_key(guarded: TestClient, headers: dict[str, str]) -> None:
    """401 in the service's shape; only the health is open."""
    answer = guarded.get("/v1/files", headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (401, "invalid_api_key")
    assert "`ftpipe serve key`" in error["message"]
    assert guarded.get("/health").status_code == 200


def test_auth_hides_resources_of_other_owners(guarded: TestClient) -> None:
    """Files, jobs and models: neither listed, nor found, nor usable."""
    file = upload(guarded, headers=ANNA)
    body = {"model": "gpt-4o-mini", "training_file": file["id"]}
    assert guarded.post("/v1/fine_tuning/jobs", json=body, headers=BEN).status_code == 400
    job = guarded.post("/v1/fine_tuning/jobs", json=body, headers=ANNA).json()
    for url in (f"/v1/files/{file['id']}", f"/v1/files/{file['id']}/content", f"/v1/fine_tuning/jobs/{job['id']}"):
        assert guarded.get(url, headers=BEN).status_code == 404
    assert guarded.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel", headers=BEN).status_code == 404
    assert guarded.get("/v1/files", headers=BEN).json()["data"] == []
    assert guarded.get("/v1/fine_tuning/jobs", headers=BEN).json()["data"] == []


def test_permission_shares_checkpoint_until_revoked(guarded: TestClient) -> None:
    """Until it is taken back; only the owner gives it."""
    guarded.headers.update(ANNA)
    done = wait_for(guarded, create_job(guarded)["id"], "succeeded")
    model = done["fine_tuned_model"]
    chat = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    shared = f"/v1/fine_tuning/checkpoints/{model}/permissions"
    assert guarded.post("/v1/chat/completions", json=chat, headers=BEN).status_code == 404
    assert guarded.post(shared, json={"project_ids": ["ben"]}, headers=BEN).status_code == 404
    permissions = guarded.post(shared, json={"project_ids": ["ben", "ben"]}).json()["data"]
    assert [item["project_id"] for item in permissions] == ["ben"]
    assert guarded.post(shared, json={"project_ids": ["ben"]}).json()["data"] == permissions
    assert guarded.post("/v1/chat/completions", json=chat, headers=BEN).status_code == 200
    assert guarded.delete(f"/v1/models/{model}", headers=BEN).status_code == 404
    assert guarded.get(shared, params={"project_id": "ben"}).json()["data"] == permissions
    assert guarded.delete(f"{shared}/{permissions[0]['id']}").json()["deleted"] is True
    assert guarded.post("/v1/chat/completions", json=chat, headers=BEN).status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "10.0.0.5"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://[", "Host": "localhost"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_host_policy_refuses_requests_from_web_pages(client: TestClient, headers: dict[str, str]) -> None:
    """Against DNS rebinding and cross-site requests, for every route."""
    for url in ("/health", "/v1/files", "/nowhere"):
        assert client.get(url, headers=headers).status_code == 403


@pytest.mark.parametrize("host", ["localhost:8321", "127.0.0.1:1", "[::1]:8321", "LOCALHOST", "box"])
def test_host_policy_allows_names_of_this_machine(make_client: MakeClient, host: str) -> None:
    """With any port, and those that the settings add."""
    client = make_client(allowed_hosts=("box",))
    assert client.get("/health", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_host_policy_allows_web_pages_of_named_origin(make_client: MakeClient, site: str) -> None:
    """Nothing else changes: other origins, requests without an origin, and other names of the host are refused."""
    client = make_client(allowed_origins=("HTTPS://Chat.example:443/",))
    page = {"Origin": "https://chat.example", "Sec-Fetch-Site": site}
    answer = client.get("/v1/files", headers=page)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://chat.example"
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert "Origin" in answer.headers["vary"]
    for origin in ("https://chat.example.evil", "http://chat.example", "https://chat.example:8443", "null"):
        assert client.get("/v1/files", headers=page | {"Origin": origin}).status_code == 403
    assert client.get("/v1/files", headers={"Sec-Fetch-Site": site}).status_code == 403
    assert client.get("/v1/files", headers=page | {"Host": "evil.example"}).status_code == 403


def test_cors_preflight_is_answered_without_key_for_allowed_origins_only(
    make_client: MakeClient, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("anna:sk-anna-0123456789\n")
    client = make_client(api_key_file=tmp_path / "keys", allowed_origins=("https://chat.example",))
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    allowed = client.options("/v1/chat/completions", headers={"Origin": "https://chat.example", **asked})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://chat.example"
    assert "POST" in allowed.headers["access-control-allow-methods"]
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    refused = client.options("/v1/chat/completions", headers={"Origin": "https://evil.example", **asked})
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers
    refused_body = client.post("/v1/chat/completions", json={}, headers={"Origin": "https://chat.example"})
    assert refused_body.status_code == 401
    assert refused_body.headers["access-control-allow-origin"] == "https://chat.example"


def test_cors_with_star_never_allows_credentials(make_client: MakeClient, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("anna:sk-anna-0123456789\n")
    client = make_client(api_key_file=tmp_path / "keys", allowed_origins=("*", "https://chat.example"))
    for headers in (
        {"Origin": "https://chat.example"},
        {"Origin": "https://any.example", "Sec-Fetch-Site": "cross-site"},
    ):
        answer = client.get("/v1/files", headers=ANNA | headers)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


def test_cors_is_off_by_default(client: TestClient) -> None:
    answer = client.get("/v1/files", headers={"Origin": "http://127.0.0.1"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origin", ["chat.example", "https://", "https://chat.example/page", "null", "https://a b", ""])
def test_host_policy_refuses_what_is_no_origin(origin: str) -> None:
    with pytest.raises(UsageError, match="is not an origin"):
        build_host_policy("127.0.0.1", (), (origin,))


def test_auth_takes_key_in_header_of_azure(guarded: TestClient) -> None:
    """``Authorization`` wins, so that a wrong one there is never accepted because of another header."""
    key = {"api-key": "sk-anna-0123456789"}
    assert guarded.get("/v1/files", headers=key).status_code == 200
    assert guarded.get("/v1/files", headers={"api-key": "sk-nobody-0123456789"}).status_code == 401
    assert guarded.get("/v1/files", headers=key | {"Authorization": "Bearer no"}).status_code == 401
    assert guarded.get("/v1/files", headers=key | {"Authorization": "Basic x"}).status_code == 401


@pytest.mark.parametrize("host", ["host.docker.internal", "ftpipe"])
def test_host_policy_names_flag_that_exists_and_helps(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """A container's request is refused with a flag that ``serve`` has; with the flag it is allowed."""
    settings: list[ServeSettings] = []
    monkeypatch.setattr("ftpipe.server.http.serve", lambda one, *_build, **_callbacks: settings.append(one))
    refused = make_client().get("/health", headers={"Host": f"{host}:8321"})
    assert refused.status_code == 403
    [flag] = re.findall(r"--[a-z-]+", refused.json()["error"]["message"])
    for value in (host, f"{host.upper()}:8321"):
        with pytest.raises(SystemExit) as stop:
            run(["serve", flag, "other", flag, value])
        assert stop.value.code == 0
        allowed = settings.pop().allowed_hosts
        assert make_client(allowed_hosts=allowed).get("/health", headers={"Host": f"{host}:8321"}).status_code == 200


def test_host_policy_public_allows_addresses_not_names() -> None:
    """Rebinding needs a name; keys are required there anyway."""
    policy = build_host_policy("0.0.0.0", ())
    policy.check({"host": "192.168.1.7:8321"})
    with pytest.raises(ApiError):
        policy.check({"host": "evil.example:8321"})


def test_require_keys_if_exposed() -> None:
    """The refusal names the flag."""
    with pytest.raises(UsageError) as refused:
        require_keys_if_exposed("0.0.0.0", (), ApiKeys())
    assert "--api-key-file" in refused.value.hint
    with pytest.raises(UsageError) as refused:
        require_keys_if_exposed("127.0.0.1", ("https://a.example", " * "), ApiKeys())
    assert "--allow-origin" in refused.value.hint
    require_keys_if_exposed("127.0.0.1", (), ApiKeys())
    require_keys_if_exposed("::1", ("https://a.example",), ApiKeys())


@pytest.mark.parametrize("content", ["", "# nothing\n", "bad owner!:0123456789abcdef\n", "owner:\n"])
def test_load_api_keys_refuses_invalid_file(tmp_path: Path, content: str) -> None:
    """An empty file must not mean that everyone may come in."""
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(ConfigError):
        load_api_keys(path)


def test_load_api_keys_refuses_missing_file(tmp_path: Path) -> None:
    """The same holds for a file that is not there."""
    with pytest.raises(ConfigError):
        load_api_keys(tmp_path / "nothing")


@pytest.mark.parametrize("line", ["x", "anna:0123456789abcde", "0123456789abcdef\nben:short"])
def test_load_api_keys_refuses_short_keys(tmp_path: Path, line: str) -> None:
    """The hint is a command that makes a longer one, and the key is not shown."""
    path = tmp_path / "keys"
    path.write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="less than 16 characters") as refused:
        load_api_keys(path)
    assert "openssl rand -hex 24" in refused.value.hint
    assert "0123456789" not in refused.value.message


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_serve_warns_about_key_file_that_others_can_read(
    make_client: MakeClient, tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warns: bool
) -> None:
    path = tmp_path / "keys"
    path.write_text("anna:0123456789abcdef\n", encoding="utf-8")
    path.chmod(mode)
    with caplog.at_level(logging.WARNING, "ftpipe.server"):
        make_client(api_key_file=path)
    assert any("chmod 600" in record.getMessage() for record in caplog.records) is warns


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_load_api_keys_refuses_file_that_others_can_write(tmp_path: Path, mode: int) -> None:
    """They could add a key of their own."""
    path = tmp_path / "keys"
    path.write_text("anna:0123456789abcdef\n", encoding="utf-8")
    path.chmod(mode)
    with pytest.raises(ConfigError, match="can write the key file"):
        load_api_keys(path)


def test_health_tells_job_counts_to_key_holders_only(guarded: TestClient, make_client: MakeClient) -> None:
    """Without keys, everyone who reaches the server is its user."""
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert set(guarded.get("/health", headers=headers).json()) == {"status", "version", "data_dir_id"}
    assert guarded.get("/health", headers=ANNA).json()["jobs"] == {"running": 0, "open": 0}
    assert make_client().get("/health").json()["jobs"] == {"running": 0, "open": 0}
