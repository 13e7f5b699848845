"""Fixtures of the tests of Fireworks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ftpipe.providers.provider import Provider
from tests.fakes.fireworks import FireworksServer
from tests.faults.fireworks_environment import fireworks_provider


@pytest.fixture
def host() -> Iterator[FireworksServer]:
    """A local Fireworks; at the end, every request was one that the description allows, and no signed URL got a key."""
    with FireworksServer() as running:
        yield running
    assert (running.violations, running.urls_with_key) == ([], [])


@pytest.fixture
def provider(host: FireworksServer) -> Iterator[Provider]:
    """Fireworks, opened at the local host."""
    opened = fireworks_provider(host, sleep=lambda _seconds: None)
    yield opened
    opened.close()
