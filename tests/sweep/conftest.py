"""The date on which the sweeps of these tests are trained."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import time_machine

from tests.cli.conftest import WHILE_BASES_LIVE


@pytest.fixture(autouse=True)
def day() -> Iterator[None]:
    """A day in 2026, before the shutdown of the base model that these sweeps train."""
    with time_machine.travel(WHILE_BASES_LIVE, tick=True):
        yield
