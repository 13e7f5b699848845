"""The command line as a fixture."""

from __future__ import annotations

import pytest

from tests.cli.world import World


@pytest.fixture
def world(capsys: pytest.CaptureFixture[str]) -> World:
    """A command line over a mocked endpoint, in a folder of its own."""

    def read() -> tuple[str, str]:
        captured = capsys.readouterr()
        return captured.out, captured.err

    return World(read)
