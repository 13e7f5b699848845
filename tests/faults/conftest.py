"""Fixtures of the fault tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.endpoint import FaultEndpoint
from tests.faults.environment import FaultEnvironment

MEMORY = Path("/dev/shm")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory if there is one: a killed process loses nothing there either, and syncing is quick."""
    folder = Path(tempfile.mkdtemp(prefix=f"ftpipe-faults-{os.getpid()}-", dir=MEMORY if MEMORY.is_dir() else None))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def endpoint() -> Iterator[FaultEndpoint]:
    """A running fault endpoint."""
    with FaultEndpoint() as running:
        yield running


@pytest.fixture
def environment(endpoint: FaultEndpoint, tmp_path: Path) -> Iterator[FaultEnvironment]:
    """A user's folder beside it."""
    environment = FaultEnvironment(tmp_path, endpoint)
    yield environment
    environment.close()
