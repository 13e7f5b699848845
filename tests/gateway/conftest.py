"""A host that answers chats, a registry with its model, and a server of ftpipe that forwards to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ftpipe.gateway.routes import RegistryRoutes
from ftpipe.providers import load_profiles, open_provider
from ftpipe.records import Model, Run, RunState
from ftpipe.registry import Registry, open_registry
from tests.fakes.chat_host import SERVED, ChatHost
from tests.fakes.records import MODEL, dataset_at, spec_of
from tests.gateway.live_server import LiveServer

OLD = "ft:gpt-4o-mini-2024-07-18:acme:support:abc123"
KEY = "sk-upstream-0123456789"

MakeServer = Callable[..., LiveServer]


@pytest.fixture
def host() -> Iterator[ChatHost]:
    """The host of the successor."""
    with ChatHost() as running:
        yield running


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry of its own."""
    opened = open_registry(tmp_path / "registry.db")
    yield opened
    opened.close()


def register(registry: Registry, folder: Path, name: str, *, endpoint: str, provider: str = "openai") -> None:
    """Register a model."""
    dataset = dataset_at(folder / "a.jsonl")
    run = Run(
        id=f"run-{name}",
        spec=spec_of(dataset),
        endpoint=endpoint,
        state=RunState.CREATED,
        created_at=1,
        dataset_sha256=dataset.sha256,
    )
    model = Model(
        id=name,
        base=MODEL,
        provider=provider,
        endpoint=endpoint,
        job_id=f"job-{name}",
        file_id="f",
        dataset_sha256=dataset.sha256,
        created_at=1,
    )
    registry.runs.register(model, registry.runs.start(run, key=name, ordinal=0), price_row="")


def make_routes(
    registry: Registry,
    folder: Path,
    names: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    with_aliases: bool = False,
) -> RegistryRoutes:
    """The routes of a server whose data is below a folder."""
    return RegistryRoutes(
        registry,
        names or {},
        with_aliases=with_aliases,
        providers=load_profiles(),
        open_provider=lambda name: open_provider(name, env=environment, start=False),
        own_endpoint=f"local:{folder / 'data'}",
    )


@pytest.fixture
def make_server(tmp_path: Path, host: ChatHost, registry: Registry) -> Iterator[MakeServer]:
    """Starts servers; all are stopped in the end."""
    environment = {"OPENAI_BASE_URL": host.base_url, "OPENAI_API_KEY": KEY}
    register(registry, tmp_path, SERVED, endpoint=host.base_url)
    with ExitStack() as stack:

        def make(names: dict[str, str] | None = None, *, with_aliases: bool = False, **changes: Any) -> LiveServer:
            names = {OLD: SERVED} if names is None else names
            routes = make_routes(registry, tmp_path, names, environment, with_aliases=with_aliases)
            return stack.enter_context(LiveServer(tmp_path, routes, **changes))

        yield make
