"""``python -m tests.benchmarks.fuzz_routes [requests] [seed]``: random requests to every route; none may be a 5xx.

The server runs in this process, with a fake engine and a fake trainer. Prints the count of every status.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from pathlib import Path

from starlette.testclient import TestClient

from ftpipe.server.http import create_app
from ftpipe.server.services import build_context
from ftpipe.server.settings import ServeSettings
from tests.server.fakes import FAKE_TRAINER, FakeBaseModels, FakeEngine, FakeValidation
from tests.server.route_fuzzer import FuzzReport, RouteFuzzer, seed_rows

REQUESTS_PER_SERVER = 5_000
"""After that a new server with an empty folder is made, so that the lists stay short."""


def main(requests: int = 100_000, seed: int = 0) -> int:
    """Send the requests; returns the number of faults."""
    logging.disable(logging.CRITICAL)
    statuses: dict[int, int] = {}
    faults: list[str] = []
    started_at = time.perf_counter()
    for number in range(0, requests, REQUESTS_PER_SERVER):
        with tempfile.TemporaryDirectory(prefix="ftpipe-fuzz-") as folder:
            report = fuzz(Path(folder), min(REQUESTS_PER_SERVER, requests - number), seed + number)
        for status, count in report.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
        faults += report.faults
        sys.stderr.write(f"{sum(statuses.values()):,} responses after {time.perf_counter() - started_at:.0f} s\n")
    total = sum(statuses.values())
    lines = [*faults, f"{total:,} responses, {len(faults)} faults, by status: {dict(sorted(statuses.items()))}"]
    sys.stdout.write("\n".join(lines) + "\n")
    return len(faults)


def fuzz(folder: Path, requests: int, seed: int) -> FuzzReport:
    """Send requests to one server."""
    settings = ServeSettings(data_dir=folder / "data", trainer_command=FAKE_TRAINER, poll_interval=0.1)
    context = build_context(
        settings, engine=FakeEngine(), base_models=FakeBaseModels(), start_validation=FakeValidation
    )
    app = create_app(context)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        return RouteFuzzer(client, seed, seed_rows(client)).run(requests)


if __name__ == "__main__":
    sys.exit(bool(main(*map(int, sys.argv[1:]))))
