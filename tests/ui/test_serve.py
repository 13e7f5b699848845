"""The pages as a program: beside the API of a server, and what its command needs."""

from __future__ import annotations

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from ftpipe.server.listening import MountedApps
from ftpipe.ui.project import Project
from ftpipe.ui.serve import UiSettings, build_app, sign_in_url
from tests.ui.conftest import BASE_URL, SAME_ORIGIN


@pytest.fixture
def mounted(project: Project) -> TestClient:
    """A browser that has opened the printed link of pages at ``/ui``."""

    async def api(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(f"API {scope['path']}")(scope, receive, send)

    pages = build_app(UiSettings(), project)
    client = TestClient(MountedApps(api, {"/ui": pages}), base_url=BASE_URL, follow_redirects=False)
    answer = client.get(sign_in_url(pages, f"{BASE_URL}/ui/"))
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/")
    assert "path=/ui" in answer.headers["set-cookie"].lower()
    client.headers["sec-fetch-site"] = "same-origin"
    return client


def test_mounted_pages_stay_below_their_path(mounted: TestClient) -> None:
    """Every link, form and file of a page."""
    assert mounted.get("/ui/").headers["location"] == "/ui/runs"
    text = mounted.get("/ui/runs").text
    urls = [part.partition('"')[0] for name in ('href="', 'src="', 'action="') for part in text.split(name)[1:]]
    assert len(urls) > 10
    assert [url for url in urls if not url.startswith(("/ui/", "#", "data:,"))] == []
    assert mounted.get("/ui/static/page.css").status_code == 200
    assert mounted.get("/ui").status_code == 303


def test_mounted_pages_leave_the_api_alone(mounted: TestClient) -> None:
    assert [mounted.get(path).text for path in ("/v1/models", "/uix", "/")] == ["API /v1/models", "API /uix", "API /"]
    answer = mounted.post("/v1/files", headers={"sec-fetch-site": "cross-site"})
    assert answer.text == "API /v1/files", "its own middleware decides"


def test_mounted_pages_sign_out(mounted: TestClient) -> None:
    token = mounted.get("/ui/runs").text.partition('name="csrf" value="')[2].partition('"')[0]
    answer = mounted.post("/ui/sign-out", data={"csrf": token}, headers=SAME_ORIGIN)
    assert answer.headers["location"] == "/ui/sign-in"
    assert mounted.get("/ui/runs").status_code == 401
