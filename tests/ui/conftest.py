"""The pages over a registry of their own, without a server process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ftpipe.config import load
from ftpipe.registry import Registry, open_registry
from ftpipe.server.auth import build_host_policy
from ftpipe.ui.app import create_app
from ftpipe.ui.background import BackgroundCommands
from ftpipe.ui.curves import CurveCache
from ftpipe.ui.job_watcher import JobWatcher
from ftpipe.ui.project import Endpoints, Project
from ftpipe.ui.sessions import Sessions

BASE_URL = "http://127.0.0.1:8322"
SAME_ORIGIN = {"origin": BASE_URL, "sec-fetch-site": "same-origin"}


@pytest.fixture
def registry(own_home: Path) -> Iterator[Registry]:
    """An empty registry."""
    registry = open_registry(own_home / ".ftpipe" / "registry.db")
    yield registry
    registry.close()


@pytest.fixture
def project(registry: Registry, own_home: Path) -> Iterator[Project]:
    """A project whose jobs are not read by themselves."""
    settings = load(env={}, folder=own_home)
    endpoints = Endpoints(settings, {})
    state_dir = own_home / ".ftpipe"
    yield Project(
        owner="local",
        folder=own_home,
        state_dir=state_dir,
        settings=settings,
        registry=registry,
        endpoints=endpoints,
        commands=BackgroundCommands(own_home, state_dir),
        watcher=JobWatcher(registry, endpoints),
        curves=CurveCache(registry),
    )
    endpoints.close()


@pytest.fixture
def sessions() -> Sessions:
    """Nobody is signed in."""
    return Sessions()


MakeClient = Callable[..., TestClient]


@pytest.fixture
def make_client(project: Project, sessions: Sessions) -> MakeClient:
    """Makes browsers without a session."""

    def make(**changes: object) -> TestClient:
        values: dict[str, object] = {
            "sessions": sessions,
            "host_policy": build_host_policy("127.0.0.1", ()),
            "find_project": lambda owner: project if owner == "local" else None,
        }
        app = create_app(**{**values, **changes})  # type: ignore[arg-type]
        return TestClient(app, base_url=BASE_URL, follow_redirects=False)

    return make


@pytest.fixture
def client(make_client: MakeClient, sessions: Sessions) -> TestClient:
    """A browser that is signed in, and sends what browsers send."""
    client = make_client()
    assert client.get("/", params={"token": sessions.create_link_token()}).status_code == 303
    client.headers["sec-fetch-site"] = "same-origin"
    return client


def csrf_of(client: TestClient) -> str:
    """The token that the pages carry."""
    text = client.get("/runs").text
    return text.partition('name="csrf" value="')[2].partition('"')[0]
