"""The kill loop on a local Together, which has neither metadata nor idempotency keys.

``FTPIPE_KILLS=200 pytest -s tests/faults/test_together_kill_loop.py`` runs two hundred kills; without it, some.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.fakes.together import BASE, TogetherServer
from tests.faults.environment import KEY
from tests.faults.fork_server import ForkServer
from tests.faults.kill_loop import KILLS, SEED, KillTarget, loop

TABLE = f"""
provider = "together"
model = "{BASE}"

[providers.together]
base_url = "{{base_url}}"
list_lag_seconds = 0.1
poll_first_seconds = 0.01
poll_max_seconds = 0.02
"""


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_together_kill_loop_pays_once(
    tmp_path: Path, fork_server: ForkServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 1: whenever it is killed, the result is that of a run without kills, and each request is described."""
    violations: list[str] = []

    def start() -> TogetherServer:
        return TogetherServer(key=KEY, statuses=("queued", "running", "completed"), violations=violations)

    started_at = time.monotonic()
    stats = loop(tmp_path, fork_server, KILLS, target=KillTarget(start, TABLE))
    with capsys.disabled():
        print(f"\nkill loop at Together: {stats}, {time.monotonic() - started_at:.0f} s, seed {SEED}")  # noqa: T201 - the figure
    assert (stats.duplicates, stats.lost, violations) == (0, 0, [])
