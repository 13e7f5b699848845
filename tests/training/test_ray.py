"""The engine ray, on a real cluster of two nodes on this machine: the same API behaviour, comparable loss."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ftpipe.server.http import create_app
from ftpipe.server.services import build_context
from ftpipe.server.settings import ServeSettings
from ftpipe.training.job_directory import JobDirectory
from ftpipe.training.run import run_job
from tests.server.conftest import upload, wait_for
from tests.training.tiny_model import make_job, result, rows, with_workers

pytestmark = pytest.mark.needs("ray")

CLUSTER = """
import sys, ray
from ray.cluster_utils import Cluster
node = {"num_cpus": 1, "object_store_memory": 80_000_000}
cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
cluster.add_node(**node)
print("address", cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of base models of every machine of the cluster."""
    folder = tmp_path_factory.mktemp("home") / "models"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def cluster(models_dir: Path) -> Iterator[str]:
    """Address of a cluster with two nodes of one processor each."""
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": "/tmp", "OMP_NUM_THREADS": "1"}
    environment["FTPIPE_HOME"] = str(models_dir.parent)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    words = next((line for line in process.stdout if line.startswith("address ")), "nothing came").split()
    assert words[0] == "address"
    yield words[1]
    process.stdin.close()
    try:
        process.wait(60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


def train(folder: Path, base: Path, **settings: Any) -> tuple[dict[str, Any], list[str], list[float]]:
    """One job through the API: how it ended, its events oldest first, and the training loss of each step."""
    serve_settings = ServeSettings(data_dir=folder / "data", models_dir=base.parent, **settings)
    with TestClient(create_app(build_context(serve_settings)), base_url="http://127.0.0.1") as client:
        content = "".join(json.dumps(row) + "\n" for row in rows(12)).encode()
        extras = {"n_epochs": 2, "batch_size": 4, "lora_dropout": 0.0}
        body = {
            "model": base.name,
            "training_file": upload(client, content)["id"],
            "seed": 3,
            "hyperparameters": extras,
        }
        job = client.post("/v1/fine_tuning/jobs", json=body).json()
        done = wait_for(client, job["id"], "succeeded", "failed", seconds=240)
        events = client.get(f"/v1/fine_tuning/jobs/{job['id']}/events?limit=100").json()["data"][::-1]
        assert done["status"] == "succeeded", [event["message"] for event in events]
        chat = {"model": done["fine_tuned_model"], "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        assert client.post("/v1/chat/completions", json=chat).json()["usage"]["completion_tokens"] >= 1
    losses = [event["data"]["train_loss"] for event in events if event["type"] == "metrics"]
    return done, [event["message"].split(":")[0] for event in events], losses


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_ray_unreachable_cluster_fails_job_with_hint(base: Path, tmp_path: Path, address: str) -> None:
    """At once, and not after the minutes that Ray would try."""
    folder = with_workers(make_job(tmp_path / "job", base), engine="ray", address=address)
    assert run_job(JobDirectory(folder)) == "failed"
    message = result(folder)["error"]["message"]
    assert address in message
    assert "--ray-address" in message


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
def test_ray_matches_single_process(cluster: str, base: Path, models_dir: Path, tmp_path: Path) -> None:
    """Fields, events, tokens and answers are the same; each step's loss agrees."""
    (models_dir / base.name).symlink_to(base)
    plain, events, losses = train(tmp_path / "plain", base)
    distributed, events_on_ray, losses_on_ray = train(
        tmp_path / "ray", base, engine="ray", ray_address=cluster, workers=2
    )
    assert losses_on_ray == pytest.approx(losses, abs=2e-3)
    assert [text for text in events_on_ray if not text.startswith("Waiting")] == [
        text.replace(plain["fine_tuned_model"], distributed["fine_tuned_model"]) for text in events
    ]
    same = ("status", "trained_tokens", "hyperparameters", "method", "seed", "error", "object", "model")
    assert {name: distributed[name] for name in same} == {name: plain[name] for name in same}
