"""The thread that reads jobs: how often it reads which, and what it does after an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpipe.errors import ConnectionFailedError
from ftpipe.providers.provider import Provider
from ftpipe.registry import Registry
from ftpipe.ui.job_watcher import OPEN_SECONDS, SHOWN_SECONDS, JobWatcher
from tests.fakes.openai_client import FakeOpenAI
from tests.fakes.records import provider_over
from tests.ui import seeds


class Endpoints:
    """One endpoint, which can be out of reach."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.is_reachable = True
        self.log: list[str] = []

    def open(self, name: str, *, start: bool = False) -> Provider:
        self.log.append(f"open {name} {start}")
        if not self.is_reachable:
            raise ConnectionFailedError("it does not answer")
        return self.provider

    def forget(self, name: str) -> None:
        self.log.append(f"forget {name}")


class Watched:
    """A run at a host whose job is read at the seconds of a clock that is set by hand."""

    def __init__(self, registry: Registry) -> None:
        client = FakeOpenAI()
        client.statuses = ["running"] * 99
        self.endpoints = Endpoints(provider_over(client))
        self.seconds = 1000.0
        self.watcher = JobWatcher(registry, self.endpoints, clock=lambda: self.seconds)
        run = seeds.run_of(provider="openai", endpoint=self.endpoints.provider.endpoint)
        self.run = seeds.add_run(registry, run, seeds.job_of(run, id=client.seed_job().id), steps=2)

    def reads_after(self, seconds: float) -> list[str]:
        self.endpoints.log.clear()
        self.seconds += seconds
        self.watcher.read_due()
        return self.endpoints.log


@pytest.fixture
def watched(registry: Registry, own_home: Path) -> Watched:
    return Watched(registry)


def test_job_is_read_more_often_while_a_page_shows_it(watched: Watched) -> None:
    """Until the last of two pages is closed; no server is started for it."""
    one_read = ["open openai False"]
    assert watched.reads_after(0) == one_read
    assert watched.reads_after(SHOWN_SECONDS[False]) == []
    with watched.watcher.shown(watched.run.id):
        with watched.watcher.shown(watched.run.id):
            assert watched.reads_after(0) == one_read
        assert watched.reads_after(SHOWN_SECONDS[False]) == one_read
        assert watched.reads_after(SHOWN_SECONDS[False] / 2) == []
    assert watched.reads_after(SHOWN_SECONDS[False]) == []
    assert watched.reads_after(OPEN_SECONDS) == one_read


def test_endpoint_that_does_not_answer_is_opened_again(watched: Watched) -> None:
    watched.endpoints.is_reachable = False
    assert watched.reads_after(0) == ["open openai False", "forget openai"]
    error = watched.watcher.error(watched.run.id)
    assert error is not None
    assert error.message == "it does not answer"
    watched.endpoints.is_reachable = True
    assert watched.reads_after(OPEN_SECONDS) == ["open openai False"]
    assert watched.watcher.error(watched.run.id) is None
