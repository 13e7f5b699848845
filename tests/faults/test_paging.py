"""Lists of an endpoint that never end by themselves: the same page again and again, or new items for ever."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ftpipe.errors import StillRunningError
from ftpipe.providers import client as client_module
from ftpipe.providers import paging
from ftpipe.providers.provider import Provider
from tests.fakes.scripted_server import Fault
from tests.faults.endpoint import FaultEndpoint
from tests.faults.environment import FaultEnvironment, provider_at

JOB = "ftjob-0001"
LISTS: dict[str, tuple[str, dict[str, Any], Callable[[Provider], object]]] = {
    "jobs": (
        "GET /fine_tuning/jobs",
        {"id": JOB, "object": "fine_tuning.job", "created_at": 1, "status": "running", "model": "m"},
        lambda provider: list(provider.jobs.recent()),
    ),
    "events": (
        "GET /fine_tuning/jobs/{id}/events",
        {"id": "ftevent-1", "object": "fine_tuning.job.event", "created_at": 1, "level": "info", "message": "x"},
        lambda provider: provider.jobs.events(JOB),
    ),
    "checkpoints": (
        "GET /fine_tuning/jobs/{id}/checkpoints",
        {
            "id": "ftckpt-1",
            "object": "fine_tuning.job.checkpoint",
            "created_at": 1,
            "fine_tuned_model_checkpoint": "ft:m:ckpt",
            "fine_tuning_job_id": JOB,
            "metrics": {},
            "step_number": 1,
        },
        lambda provider: provider.jobs.checkpoints(JOB),
    ),
    "files": (
        "GET /files",
        {"id": "file-1", "object": "file", "bytes": 1, "created_at": 1, "filename": "x", "purpose": "fine-tune"},
        lambda provider: provider.files.find(filename="x", size=1),
    ),
    "models": ("GET /models", {"id": "m", "object": "model", "created": 1}, lambda provider: provider.models.names()),
}


@pytest.fixture
def provider(endpoint: FaultEndpoint) -> Iterator[Provider]:
    """A provider at the fault endpoint."""
    provider = provider_at(endpoint.base_url)
    yield provider
    provider.close()


def endless(*items: dict[str, Any]) -> Fault:
    """A page that is not the last one, whatever is requested."""
    return Fault(body=json.dumps({"object": "list", "data": items, "has_more": True}).encode())


@pytest.mark.parametrize("name", LISTS)
def test_list_ends_where_cursor_stands_still(endpoint: FaultEndpoint, provider: Provider, name: str) -> None:
    """The same id again, with ``has_more`` for ever."""
    route, item, read = LISTS[name]
    endpoint.always(route, endless(item))
    assert len(read(provider)) == 1  # type: ignore[arg-type]  # all of them are lists
    assert endpoint.calls[route] <= 2


def test_list_ends_where_pages_go_in_a_circle(endpoint: FaultEndpoint, provider: Provider) -> None:
    """Page A, page B, then page A again."""
    route, item, read = LISTS["events"]
    endpoint.script(route, *[endless(item | {"id": f"ftevent-{number % 2}"}) for number in range(50)])
    assert len(read(provider)) == 2  # type: ignore[arg-type]  # a list
    assert endpoint.calls[route] == 3


@pytest.mark.parametrize("name", ["jobs", "events", "checkpoints", "files"])
def test_list_of_new_items_for_ever_is_bounded(
    endpoint: FaultEndpoint, provider: Provider, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A new cursor on each page."""
    monkeypatch.setattr(paging, "MAX_PAGES", 30)
    route, item, read = LISTS[name]
    endpoint.script(route, *[endless(item | {"id": f"{item['id']}-{number}"}) for number in range(200)])
    read(provider)
    assert endpoint.calls[route] == 30


@pytest.mark.parametrize("route", ["GET /fine_tuning/jobs", "GET /fine_tuning/jobs/{id}/events"])
def test_train_timeout_ends_endless_list(
    environment: FaultEnvironment, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    """``train --timeout`` holds for lists, too, before and after the job exists."""
    monkeypatch.setattr(client_module, "MIN_READ_SECONDS", 0.1)
    endpoint = environment.endpoint
    endpoint.statuses = ("running",)
    numbers = itertools.count()
    item = LISTS["jobs" if route.endswith("/jobs") else "events"][1]

    def add_page(called: str) -> None:
        if called == route:
            endpoint.always(route, endless(item | {"id": f"{item['id']}-{next(numbers)}"}))
            time.sleep(0.02)

    endpoint.before = add_page
    add_page(route)
    started_at = time.monotonic()
    with pytest.raises(StillRunningError):
        environment.train(timeout=1.0, request_timeout_seconds=60.0)
    assert time.monotonic() - started_at < 5
    calls = endpoint.calls[route]
    assert calls < 200
