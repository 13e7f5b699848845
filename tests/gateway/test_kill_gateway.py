"""``ftpipe serve --upstream`` as a process that is killed around the paid call, and started again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import openai
import pytest

from tests.fakes.scripted_server import NEVER
from tests.faults.endpoint import FaultEndpoint
from tests.faults.environment import KEY

ROOT = Path(__file__).parent.parent.parent
SECONDS = 90
BASE = "meta-llama/Llama-3.1-8B-Instruct"
CONFIG = """
[providers.host]
base_url = "{base_url}"
key_env = "HOST_API_KEY"
target = "nebius"
default_model = "{base}"
list_lag_seconds = 0.2
poll_first_seconds = 0.05
poll_max_seconds = 0.1
"""
ROWS = "".join(
    json.dumps({"messages": [{"role": "user", "content": f"{n} + 7?"}, {"role": "assistant", "content": str(n + 7)}]})
    + "\n"
    for n in range(12)
)


class GatewayProcess:
    """The command in a folder of its own."""

    def __init__(self, folder: Path, endpoint: FaultEndpoint) -> None:
        self.folder = folder
        self.endpoint = endpoint
        (folder / "ftpipe.toml").write_text(CONFIG.format(base_url=endpoint.base_url, base=BASE), encoding="utf-8")

    def start(self) -> openai.OpenAI:
        """Start it, and wait until it listens."""
        address = self.folder / "data" / "server.json"
        address.unlink(missing_ok=True)
        command = [sys.executable, "-m", "ftpipe", "serve", "--upstream", "host", "--port", "0", "--no-key"]
        command += ["--data-dir", str(self.folder / "data"), "--max-total-cost", "5"]
        command += ["--trust-host", self.endpoint.base_url]
        environment = {
            **os.environ,
            "FTPIPE_HOME": str(self.folder / "home"),
            "HOST_API_KEY": KEY,
            "PYTHONPATH": str(ROOT),
        }
        with (self.folder / "out").open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=self.folder)
        deadline = time.monotonic() + SECONDS
        while not address.exists():
            assert self.process.poll() is None, (self.folder / "out").read_text(encoding="utf-8")
            assert time.monotonic() < deadline
            time.sleep(0.02)
        url = json.loads(address.read_text(encoding="utf-8"))["base_url"]
        return openai.OpenAI(base_url=url, api_key="any", max_retries=0)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_gateway_killed_around_paid_call_pays_once(tmp_path: Path) -> None:
    """At the upload, at a call that the host has not executed, and at one that it has; then there is a model."""
    with FaultEndpoint(key=KEY) as endpoint:
        gateway = GatewayProcess(tmp_path, endpoint)
        client = gateway.start()
        is_killed = threading.Event()
        endpoint.script("POST /fine_tuning/jobs", NEVER)
        create = "POST /fine_tuning/jobs"
        kills = [("before", "POST /files", 1), ("before", create, 1), ("after", create, 2)]

        def kill_at(moment: str, route: str) -> None:
            if kills and kills[0] == (moment, route, endpoint.calls[route]):
                kills.pop(0)
                gateway.kill()
                is_killed.set()

        endpoint.before = lambda route: kill_at("before", route)
        endpoint.after = lambda route: kill_at("after", route)
        try:
            file = client.files.create(file=("a.jsonl", ROWS.encode()), purpose="fine-tune")
            job = client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file.id)
            for _ in range(3):
                assert is_killed.wait(SECONDS)
                is_killed.clear()
                client = gateway.start()
            deadline = time.monotonic() + SECONDS
            while (done := client.fine_tuning.jobs.retrieve(job.id)).status != "succeeded":
                assert time.monotonic() < deadline, done
                time.sleep(0.05)
        finally:
            gateway.kill()
        assert (endpoint.calls[create], len(endpoint.jobs), kills) == (2, 1, [])
        assert endpoint.bodies[0]["model"] == BASE
        assert KEY.encode() not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
