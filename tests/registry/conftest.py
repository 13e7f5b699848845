"""Fixtures of the attacks on the state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import endpoint, environment, tmp_path
from tests.faults.endpoint import FaultEndpoint
from tests.faults.environment import FaultEnvironment
from tests.registry.postgres import PostgresServer, find_programs

__all__ = ["endpoint", "environment", "tmp_path"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests of a process."""
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with PostgresServer(programs) as server:
        yield server


@pytest.fixture
def pg_environment(endpoint: FaultEndpoint, tmp_path: Path, postgres: PostgresServer) -> Iterator[FaultEnvironment]:
    """A user's folder whose registry is a PostgreSQL database."""
    environment = FaultEnvironment(tmp_path, endpoint, registry_url=postgres.url())
    yield environment
    environment.close()
