"""The kill loop on a local Fireworks, where ftpipe chooses the job's id.

``FTPIPE_KILLS=200 pytest -s tests/faults/test_fireworks_kill_loop.py`` runs two hundred kills; without it, some.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.fakes.fireworks import FireworksServer
from tests.faults.environment import KEY
from tests.faults.fork_server import ForkServer
from tests.faults.kill_loop import KILLS, SEED, KillTarget, loop

TABLE = """
provider = "fireworks"
model = "qwen3-8b"

[providers.fireworks]
base_url = "{base_url}"
poll_first_seconds = 0.01
poll_max_seconds = 0.02
"""


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_fireworks_kill_loop_pays_once(
    tmp_path: Path, fork_server: ForkServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 1: killed at any moment, the result is that of a run that was never killed; each request is described."""
    violations: list[str] = []
    hosts: list[FireworksServer] = []

    def start() -> FireworksServer:
        states = ("JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_COMPLETED")
        hosts.append(FireworksServer(key=KEY, states=states, violations=violations))
        return hosts[-1]

    started_at = time.monotonic()
    stats = loop(tmp_path, fork_server, KILLS, target=KillTarget(start, TABLE))
    lists = sum(host.calls["GET /supervisedFineTuningJobs"] + host.calls["GET /dpoJobs"] for host in hosts)
    with capsys.disabled():
        print(  # noqa: T201 - the figure
            f"\nkill loop at Fireworks: {stats}, {lists} lists read, {time.monotonic() - started_at:.0f} s, seed {SEED}"
        )
    assert (stats.duplicates, stats.lost, lists, violations) == (0, 0, 0, [])
