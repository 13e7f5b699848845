"""The command line as a fixture."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import time_machine

from tests.cli.cli_runner import CliEnvironment

WHILE_BASES_LIVE = datetime(2026, 11, 24, 12, tzinfo=UTC)
"""A day on which OpenAI takes jobs on the bases that the tests name; what is refused later has tests of its own."""


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Iterator[CliEnvironment]:
    """A command line over a mocked endpoint, in a folder of its own, on a day in 2026."""

    def read() -> tuple[str, str]:
        captured = capsys.readouterr()
        return captured.out, captured.err

    with time_machine.travel(WHILE_BASES_LIVE, tick=True):
        yield CliEnvironment(read)
