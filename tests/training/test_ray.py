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

import psutil
import pytest
from starlette.testclient import TestClient

from ftpipe.server.http import create_app
from ftpipe.server.services import build_context
from ftpipe.server.settings import ServeSettings
from ftpipe.training.job_directory import JobDirectory
from ftpipe.training.run import run_job
from tests.server.conftest import upload, wait_for
from tests.training.test_parallel import losses, steps
from tests.training.test_run import run_process, wait_for_step
from tests.training.tiny_model import events, make_job, result, rows, with_workers

pytestmark = [pytest.mark.needs("ray"), pytest.mark.timeout(900)]

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
        reported = client.get(f"/v1/fine_tuning/jobs/{job['id']}/events?limit=100").json()["data"][::-1]
        assert done["status"] == "succeeded", [event["message"] for event in reported]
        chat = {"model": done["fine_tuned_model"], "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        assert client.post("/v1/chat/completions", json=chat).json()["usage"]["completion_tokens"] >= 1
    train_losses = [event["data"]["train_loss"] for event in reported if event["type"] == "metrics"]
    return done, [event["message"].split(":")[0] for event in reported], train_losses


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
    plain, messages, plain_losses = train(tmp_path / "plain", base)
    distributed, messages_on_ray, losses_on_ray = train(
        tmp_path / "ray", base, engine="ray", ray_address=cluster, workers=2
    )
    assert losses_on_ray == pytest.approx(plain_losses, abs=1e-3)
    assert [text for text in messages_on_ray if not text.startswith("Waiting")] == [
        text.replace(plain["fine_tuned_model"], distributed["fine_tuned_model"]) for text in messages
    ]
    same = ("status", "trained_tokens", "hyperparameters", "method", "seed", "error", "object", "model")
    assert {name: distributed[name] for name in same} == {name: plain[name] for name in same}


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
def test_ray_worker_that_is_killed_costs_what_was_not_saved(
    cluster: str, base: Path, models_dir: Path, tmp_path: Path
) -> None:
    """With a shared base: the next trainer continues with new workers, and nothing is in the metrics twice."""
    shared = models_dir / "shared"
    shared.symlink_to(base)
    killed, alone = (
        make_job(tmp_path / name, shared, n_epochs=20, valid=False, lora_dropout=0.0) for name in ("killed", "alone")
    )
    with_workers(killed, engine="ray", address=cluster, workers=2, strategy="fsdp")
    process = run_process(killed)
    wait_for_step(killed, 5, process)
    _, worker = (process for process in psutil.process_iter(["cmdline"]) if is_worker(process))
    worker.kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    again = run_process(killed)
    _, errors = again.communicate(timeout=200)
    assert (again.returncode, result(killed)["status"]) == (0, "succeeded"), errors
    assert any(event["message"].startswith("Training resumed after step") for event in events(killed))
    assert run_job(JobDirectory(alone)) == "succeeded"
    assert steps(killed) == steps(alone) == list(range(1, 61))
    assert losses(killed) == pytest.approx(losses(alone), abs=1e-3)


def is_worker(process: psutil.Process) -> bool:
    """Whether Ray runs a worker of ftpipe in a process; it sets the command line."""
    return any("_WorkerActor" in word for word in process.info["cmdline"] or ())
