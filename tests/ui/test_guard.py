"""What the pages refuse: other hosts, other sites, changes without a token, browsers that are not signed in."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from ftpipe.server.auth import build_host_policy, load_api_keys
from ftpipe.ui.guard import HEADERS, MAX_FORM_BYTES
from ftpipe.ui.pages import PAGES
from ftpipe.ui.sessions import MAX_SESSIONS, Sessions
from tests.ui.conftest import SAME_ORIGIN, MakeClient, csrf_of

ROUTES = [route for page in PAGES for route in page.routes if isinstance(route, Route)]
COOKIE = "ftpipe-ui-8322"


def path_of(route: Route) -> str:
    return re.sub(r"\{[^}]*\}", "1", route.path)


CHANGES = [path_of(route) for route in ROUTES if "POST" in (route.methods or ())]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:9999", "127.0.0.1", "evil.example:8322", "", "localhost:"])
def test_guard_refuses_other_host_or_port(client: TestClient, host: str) -> None:
    """A name that another site made point here, and the page of another port."""
    answer = client.get("/runs", headers={"host": host})
    assert answer.status_code == 403
    assert "Host" in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:8322", "localhost:8322", "LOCALHOST:8322", "[::1]:8322"])
def test_guard_accepts_own_hosts(client: TestClient, host: str) -> None:
    assert client.get("/runs", headers={"host": host}).status_code == 200


def test_guard_allows_another_port_for_a_named_host(make_client: MakeClient, sessions: Sessions) -> None:
    """Behind a reverse proxy, the browser sees the proxy's port."""
    policy = build_host_policy("127.0.0.1", ("ui.example",))
    client = make_client(host_policy=policy, free_port_names=("ui.example",))
    answer = client.get("/", params={"token": sessions.create_link_token()}, headers={"host": "ui.example"})
    assert answer.status_code == 303


@pytest.mark.parametrize("path", ["/runs", "/runs/run-0123456789ab", "/runs/run-0123456789ab/stream", "/no-such-page"])
def test_guard_needs_session(make_client: MakeClient, path: str) -> None:
    client = make_client()
    assert client.get(path).status_code == 401
    client.cookies.set(COOKIE, "guessed")
    assert client.get(path).status_code == 401


def test_guard_link_signs_in_once(make_client: MakeClient, sessions: Sessions) -> None:
    """The link's secret leaves the URL at once, and no script can read the cookie."""
    token = sessions.create_link_token()
    answer = make_client().get("/", params={"token": token})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith(f"{COOKIE}=")
    assert {"httponly", "samesite=strict", "path=/"} <= {part.strip() for part in cookie.split(";")}
    refused = make_client().get("/", params={"token": token})
    assert refused.status_code == 401
    assert "Open in another browser" in refused.text, "not: open the address that was printed"


@pytest.mark.parametrize("purpose", ["prefetch", "prefetch;prerender"])
def test_guard_link_is_not_used_up_by_a_browser_that_guesses(
    make_client: MakeClient, sessions: Sessions, purpose: str
) -> None:
    link = f"/?token={sessions.create_link_token()}"
    client = make_client()
    assert client.get(link, headers={"sec-purpose": purpose}).status_code == 503
    assert client.get(link).status_code == 303


def test_guard_link_leads_to_no_other_host(make_client: MakeClient, sessions: Sessions) -> None:
    answer = make_client().get(f"http://127.0.0.1:8322//evil.example/?token={sessions.create_link_token()}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/evil.example/")


def test_guard_link_again_in_the_same_browser_is_no_error(make_client: MakeClient, sessions: Sessions) -> None:
    client, token = make_client(), sessions.create_link_token()
    client.get("/", params={"token": token})
    assert client.get("/", params={"token": token}).status_code == 303


def test_guard_cookie_does_not_outlive_the_server(client: TestClient, make_client: MakeClient) -> None:
    restarted = make_client(sessions=Sessions())
    restarted.cookies.update(client.cookies)
    assert client.get("/runs").status_code == 200
    refused = restarted.get("/runs")
    assert refused.status_code == 401
    assert "`ftpipe ui` was probably started again" in refused.text
    assert "started again" not in make_client().get("/runs").text


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1"},
        {"origin": "null"},
        {},
    ],
)
def test_guard_refuses_change_from_elsewhere(
    make_client: MakeClient, sessions: Sessions, headers: Mapping[str, str]
) -> None:
    """Even with cookie and token: the cookie of one port is sent to all of them."""
    client = make_client()
    client.get("/", params={"token": sessions.create_link_token()})
    answer = client.post("/sign-out", data={"csrf": csrf_of(client)}, headers=headers)
    assert answer.status_code == 403
    assert client.get("/runs").status_code == 200


@pytest.mark.parametrize("path", ["/link", "/sign-out", *CHANGES])
@pytest.mark.parametrize("token", ["", "wrong", "é"])
def test_guard_refuses_change_without_token(client: TestClient, path: str, token: str) -> None:
    answer = client.post(path, data={"csrf": token}, headers=SAME_ORIGIN)
    assert answer.status_code == 403
    assert "out of date" in answer.text


def test_guard_accepts_token_in_header(client: TestClient) -> None:
    """As htmx sends it, with a body that is no form."""
    headers = {**SAME_ORIGIN, "x-csrf-token": csrf_of(client), "content-type": "application/octet-stream"}
    assert client.post("/sign-out", content=b"x", headers=headers).status_code == 303
    assert client.get("/runs").status_code == 401


def test_guard_refuses_other_body_without_token(client: TestClient) -> None:
    headers = {**SAME_ORIGIN, "content-type": "text/plain"}
    assert client.post("/sign-out", content=b"csrf=x", headers=headers).status_code == 403


def test_guard_refuses_large_form(client: TestClient) -> None:
    answer = client.post("/sign-out", data={"csrf": "x" * MAX_FORM_BYTES}, headers=SAME_ORIGIN)
    assert answer.status_code == 413


@pytest.mark.parametrize("path", ["/runs", "/no-such-page", "/static/page.css", "/static/htmx.min.js", "/sign-in"])
def test_guard_sets_headers(client: TestClient, path: str) -> None:
    assert HEADERS.items() <= dict(client.get(path).headers).items()
    assert HEADERS.items() <= dict(client.get(path, headers={"host": "evil.example"}).headers).items()


def test_policy_allows_no_inline_code() -> None:
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy


@pytest.fixture
def with_keys(make_client: MakeClient, own_home: object, tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """A browser at a server with the keys of two owners."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text("local:0123456789abcdef\nalice:fedcba9876543210\n", encoding="utf-8")
    path.chmod(0o600)
    return make_client(sessions=Sessions(load_api_keys(path)))


def test_sign_in_takes_key(with_keys: TestClient) -> None:
    assert with_keys.get("/runs").headers["location"] == "/sign-in"
    part = with_keys.get("/runs", headers={"hx-request": "true"})
    assert part.status_code == 401, "a page that asks for a key is no part of another"
    wrong = with_keys.post("/sign-in", data={"key": "0123456789abcdeF"}, headers=SAME_ORIGIN)
    assert wrong.status_code == 403
    right = with_keys.post("/sign-in", data={"key": "0123456789abcdef"}, headers=SAME_ORIGIN)
    assert right.status_code == 303
    assert with_keys.get("/runs").status_code == 200


def test_sign_in_shows_others_nothing(with_keys: TestClient) -> None:
    """The project belongs to the owner ``local``; the page says where others find what is theirs."""
    refused = with_keys.post("/sign-in", data={"key": "fedcba9876543210"}, headers=SAME_ORIGIN)
    assert refused.status_code == 403
    assert "run `ftpipe ui` on your own machine" in refused.text
    assert 'href="/sign-in"' in refused.text
    assert "set-cookie" not in refused.headers
    assert with_keys.get("/runs").status_code == 303, "no session was opened"


def test_guard_shows_an_owner_without_project_nothing(with_keys: TestClient, make_client: MakeClient) -> None:
    """The project of an owner may be gone after they have signed in."""
    with_keys.post("/sign-in", data={"key": "0123456789abcdef"}, headers=SAME_ORIGIN)
    sessions = with_keys.app.state.sessions  # type: ignore[attr-defined]
    others = make_client(sessions=sessions, find_project=lambda _owner: None)
    others.cookies.update(with_keys.cookies)
    assert others.get("/runs").status_code == 403


def test_sign_in_from_elsewhere_is_refused(with_keys: TestClient) -> None:
    answer = with_keys.post("/sign-in", data={"key": "0123456789abcdef"}, headers={"origin": "https://evil.example"})
    assert answer.status_code == 403


def test_link_of_page_signs_in_another_browser(client: TestClient, make_client: MakeClient) -> None:
    page = client.post("/link", data={"csrf": csrf_of(client)}, headers=SAME_ORIGIN).text
    link = page.partition("<code>")[2].partition("</code>")[0]
    assert link.startswith("http://127.0.0.1:8322/?token=")
    assert make_client().get(link).status_code == 303


def test_sessions_end_when_there_are_too_many(sessions: Sessions) -> None:
    cookies = [sessions.open_with_link(sessions.create_link_token()) for _ in range(MAX_SESSIONS + 1)]
    assert sessions.find(cookies[0]) is None
    assert sessions.find(cookies[-1]) is not None
