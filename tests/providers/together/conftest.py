"""Fixtures of the tests of Together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ftpipe.providers.provider import Provider
from tests.fakes.together import TogetherServer
from tests.faults.together_environment import together_at


@pytest.fixture
def server() -> Iterator[TogetherServer]:
    """A running local Together; at the end no request was outside the description."""
    with TogetherServer(key="sk-test-canary-0123456789abcdef") as running:
        yield running
        assert running.violations == []


@pytest.fixture
def provider(server: TogetherServer) -> Iterator[Provider]:
    """The local Together as a provider."""
    opened = together_at(server.base_url, sleep=lambda _seconds: None)
    yield opened
    opened.close()
