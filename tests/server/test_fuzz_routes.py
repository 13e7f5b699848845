"""No request makes the server fail: random requests to every route."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from tests.examples import examples
from tests.server.route_fuzzer import RouteFuzzer, seed_rows

REQUESTS = 500
"""Per seed; ``python -m tests.benchmarks.fuzz_routes`` sends 100,000."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(examples(2, 4)))
def test_random_requests_to_every_route_are_never_5xx(client: TestClient, seed: int) -> None:
    """Every refusal is OpenAI's error object."""
    report = RouteFuzzer(client, seed, seed_rows(client)).run(REQUESTS)
    assert report.faults == []
    assert report.statuses[200] > 20
    assert report.statuses[400] > 100
