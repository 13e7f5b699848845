"""Kill the server or the trainer twenty times, while three real jobs are queued.

Usage: ``python -m tests.benchmarks.crash_recovery``

Server and trainer are the real ones, with the default base model. In the end every job must have succeeded, each of its
steps reported once, every checkpoint complete by its digests, and nothing half-written left over. Takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from ftpipe.training.job_directory import JobDirectory

ROWS = Path(__file__).parents[2] / "data" / "support_desk" / "train.jsonl"
EXTRAS = {"n_epochs": 3, "batch_size": 4}


class Endpoint:
    """``ftpipe serve`` in a process that is killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        (self.data / "server.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "ftpipe", "-q", "serve", "--port", "0", "--data-dir", str(self.data)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (self.data / "server.json").exists():
            time.sleep(0.05)

    def call(
        self, path: str, body: dict[str, Any] | bytes | None = None, content_type: str = "application/json"
    ) -> dict[str, Any]:
        """GET, or POST."""
        url = json.loads((self.data / "server.json").read_text())["base_url"] + path
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        headers = {"Content-Type": content_type, "Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(url, data, headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            document: dict[str, Any] = json.load(response)
        return document

    @property
    def token(self) -> str:
        """The API key, if the server made one."""
        path = self.data / "token"
        return path.read_text().strip() if path.exists() else "none"

    def upload(self, content: bytes) -> str:
        """Upload a training file and give its id back."""
        form = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        form += b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n' + content
        return str(self.call("/files", form + b"\r\n--b--\r\n", "multipart/form-data; boundary=b")["id"])

    def trainers(self) -> list[int]:
        """Pids of the running trainers."""
        jobs = str(self.data / "jobs")
        processes = psutil.process_iter(["pid", "cmdline", "status"])
        return [
            int(process.info["pid"])
            for process in processes
            if any(str(word).startswith(jobs) for word in process.info["cmdline"] or ())
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ]


def find_problems(endpoint: Endpoint, job_id: str) -> list[str]:
    """What is wrong with an ended job."""
    job = endpoint.call(f"/fine_tuning/jobs/{job_id}")
    problems = [] if job["status"] == "succeeded" else [f"it is {job['status']}"]
    events = endpoint.call(f"/fine_tuning/jobs/{job_id}/events?limit=1000")["data"]
    metrics = [event["data"] for event in events if event["type"] == "metrics"]
    reported = Counter(data["step"] for data in metrics)
    total = max((data["total_steps"] for data in metrics), default=0)
    if reported != Counter(range(1, total + 1)):
        problems.append(f"steps reported {dict(reported)} of {total}")
    ends = sum(event["message"] == "The job has successfully completed" for event in events)
    if ends != 1:
        problems.append(f"its end was reported {ends} times")
    directory = JobDirectory(endpoint.data / "jobs" / job_id)
    problems += [f"{path.name} {problem}" for path, problem in directory.verify_checkpoints() if problem]
    problems += [f"left over: {path.name}" for path in directory.path.rglob(".*")]
    return problems


def main() -> None:
    """Kill at random moments, wait for the jobs, and report what is wrong with them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pause", type=float, default=20.0, help="longest time between two kills, in seconds")
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, started_at = random.Random(arguments.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        endpoint = Endpoint(Path(folder))
        endpoint.start()
        file = endpoint.upload(b"".join(ROWS.read_bytes().splitlines(keepends=True)[: arguments.rows]))
        body = {"model": "smollm2-135m-instruct", "training_file": file, "hyperparameters": EXTRAS}
        jobs = [str(endpoint.call("/fine_tuning/jobs", body)["id"]) for _ in range(3)]
        killed: Counter[str] = Counter()
        for _ in range(arguments.kills):
            time.sleep(rng.uniform(0.0, arguments.pause))
            killed[kill_one(endpoint, rng)] += 1
        while any(endpoint.call(f"/fine_tuning/jobs/{job}")["finished_at"] is None for job in jobs):
            time.sleep(0.5)
        problems = {job: find_problems(endpoint, job) for job in jobs}
        if endpoint.process is not None:
            endpoint.process.send_signal(signal.SIGTERM)
            endpoint.process.wait(60)
    report = {
        "killed": dict(killed),
        "jobs": len(jobs),
        "seconds": round(time.monotonic() - started_at),
        "problems": problems,
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    raise SystemExit(1 if any(problems.values()) else 0)


def kill_one(endpoint: Endpoint, rng: random.Random) -> str:
    """Kill the trainer, or the server and start it again; returns which."""
    pids = endpoint.trainers()
    if pids and rng.random() < 0.5:
        try:
            os.kill(pids[0], signal.SIGKILL)
        except ProcessLookupError:
            return "none: the trainer had just ended"
        return "trainer"
    if endpoint.process is not None:
        endpoint.process.kill()
        endpoint.process.wait()
    endpoint.start()
    return "server"


if __name__ == "__main__":
    main()
