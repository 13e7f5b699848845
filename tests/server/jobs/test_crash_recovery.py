"""Killing the server and the trainer at random moments."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.conftest import LINES
from tests.server.processes import ServerProcess, trainers_of

EXTRAS = {"n_epochs": 3, "fake_steps": 3, "fake_seconds": 0.15}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server in a process of its own."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    server = ServerProcess(data_dir)
    server.start()
    yield server
    if server.process is not None and server.process.poll() is None:
        server.stop()
    for pid in trainers_of(data_dir):
        os.kill(pid, signal.SIGKILL)


def make_jobs(server: ServerProcess, number: int) -> list[str]:
    """Queue some jobs and give their ids back."""
    file_id = server.upload(LINES)
    body = {"model": "gpt-4o-mini", "training_file": file_id, "hyperparameters": EXTRAS}
    return [str(server.call("/fine_tuning/jobs", body)["id"]) for _ in range(number)]


def wait_for_all(server: ServerProcess, jobs: list[str], seconds: float) -> list[str]:
    """The statuses of the jobs, once all have ended."""
    deadline = time.monotonic() + seconds
    while True:
        statuses = [str(server.call(f"/fine_tuning/jobs/{job}")["status"]) for job in jobs]
        if all(status in ("succeeded", "failed", "cancelled") for status in statuses):
            return statuses
        assert time.monotonic() < deadline, statuses
        time.sleep(0.1)


def check_outcome(server: ServerProcess, job: str) -> None:
    """One finished training, each step reported in order, no step after the end, nothing half-written."""
    folder = server.data_dir / "jobs" / job
    assert len((folder / "finished.log").read_text().splitlines()) == 1
    events = server.call(f"/fine_tuning/jobs/{job}/events?limit=1000")["data"]
    messages = [event["message"] for event in reversed(events)]
    assert messages.count("The job has successfully completed") == 1
    steps = {message.split(":")[0] for message in messages if message.startswith("Step ")}
    assert steps == {f"Step {number}/9" for number in range(1, 10)}
    for checkpoint in (folder / "checkpoints").iterdir():
        assert json.loads((checkpoint / "manifest.json").read_text())["metrics"]["step"] > 0
    results = [file for file in server.call("/files")["data"] if file["purpose"] == "fine-tune-results"]
    assert len(results) == len({file["id"] for file in results})


@pytest.mark.slow
def test_killed_server_takes_over_running_trainer(server: ServerProcess) -> None:
    """The trainer is taken over, not started a second time."""
    job = make_jobs(server, 1)[0]
    folder = server.data_dir / "jobs" / job
    while not (folder / "starts.log").exists():
        time.sleep(0.02)
    server.kill()
    server.start()
    assert wait_for_all(server, [job], 20) == ["succeeded"]
    assert len((folder / "starts.log").read_text().splitlines()) == 1
    check_outcome(server, job)


@pytest.mark.slow
def test_stopped_server_pauses_trainer_and_resumes(server: ServerProcess) -> None:
    """No trainer works on without a server; no step is lost."""
    job = make_jobs(server, 1)[0]
    while not (server.data_dir / "jobs" / job / "starts.log").exists():
        time.sleep(0.02)
    assert server.stop() == 0
    assert trainers_of(server.data_dir) == []
    server.start()
    assert wait_for_all(server, [job], 20) == ["succeeded"]
    check_outcome(server, job)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_jobs_survive_repeated_kills(server: ServerProcess) -> None:
    """Server and trainer are killed in turn at random moments; every job is trained exactly once."""
    seed = int(os.environ.get("KILL_SEED", "0"))
    chance = random.Random(seed)
    jobs = make_jobs(server, 3)
    killed = {"server": 0, "trainer": 0}
    for _ in range(int(os.environ.get("KILLS", "10"))):
        time.sleep(chance.uniform(0.0, 0.5))
        pids = trainers_of(server.data_dir)
        assert len(pids) <= 1
        if pids and chance.random() < 0.5:
            killed["trainer"] += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[0], signal.SIGKILL)
        else:
            killed["server"] += 1
            server.kill()
            server.start()
    assert wait_for_all(server, jobs, 120) == ["succeeded"] * 3
    for job in jobs:
        check_outcome(server, job)


@pytest.mark.slow
def test_trainer_killed_by_the_system_is_explained(server: ServerProcess) -> None:
    """The job's events and, when it fails, its error name the likely cause."""
    body = {"model": "gpt-4o-mini", "training_file": server.upload(LINES), "hyperparameters": {"fake_end": "killed"}}
    job = str(server.call("/fine_tuning/jobs", body)["id"])
    assert wait_for_all(server, [job], seconds=60) == ["failed"]
    error = server.call(f"/fine_tuning/jobs/{job}")["error"]
    assert "most likely because the memory ran out; use a smaller batch size" in error["message"]
    events = server.call(f"/fine_tuning/jobs/{job}/events?limit=1000")["data"]
    warnings = [event["message"] for event in events if event["level"] == "warn" and "memory" in event["message"]]
    assert warnings.count(
        "The trainer stopped: it was killed, most likely because the memory ran out; it starts again"
    ) == len(warnings)
    assert warnings
