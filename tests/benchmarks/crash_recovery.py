"""Kill -9 the server or the trainer, twenty times, while three real jobs are queued.

Usage: ``python -m tests.benchmarks.crash_recovery``

The server and the trainer are the real ones, on the default base. In the end every job must have succeeded, each of its
steps told once, every kept checkpoint whole by its digests, and nothing half-written left over. Takes some minutes.
"""

from __future__ import annotations

import argparse
import hashlib
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

ROWS = Path(__file__).parents[2] / "data" / "support_desk" / "train.jsonl"
EXTRAS = {"n_epochs": 3, "batch_size": 4}


class Endpoint:
    """``ftpipe serve`` in a process that is killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it says where it listens."""
        (self.data / "server.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "ftpipe", "-q", "serve", "--port", "0", "--data-dir", str(self.data)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (self.data / "server.json").exists():
            time.sleep(0.05)

    def call(
        self, path: str, body: dict[str, Any] | bytes | None = None, kind: str = "application/json"
    ) -> dict[str, Any]:
        """GET, or POST."""
        url = json.loads((self.data / "server.json").read_text())["base_url"] + path
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        headers = {"Content-Type": kind, "Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(url, data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    @property
    def token(self) -> str:
        """The key, where the server made one."""
        place = self.data / "token"
        return place.read_text().strip() if place.exists() else "none"

    def upload(self, content: bytes) -> str:
        """Upload a training file and give its id back."""
        form = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        form += b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n' + content
        return str(self.call("/files", form + b"\r\n--b--\r\n", "multipart/form-data; boundary=b")["id"])

    def trainers(self) -> list[int]:
        """Pids of the trainers at work."""
        jobs = str(self.data / "jobs")
        found = psutil.process_iter(["pid", "cmdline", "status"])
        return [
            int(process.info["pid"])
            for process in found
            if any(str(word).startswith(jobs) for word in process.info["cmdline"] or ())
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ]


def faults_of(endpoint: Endpoint, job: str) -> list[str]:
    """What is not as it should be with an ended job."""
    status = endpoint.call(f"/fine_tuning/jobs/{job}")["status"]
    found = [] if status == "succeeded" else [f"it is {status}"]
    events = endpoint.call(f"/fine_tuning/jobs/{job}/events?limit=1000")["data"]
    told = Counter(event["data"]["step"] for event in events if event["type"] == "metrics")
    total = max((event["data"]["total_steps"] for event in events if event["type"] == "metrics"), default=0)
    if told != Counter(range(1, total + 1)):
        found.append(f"steps told {dict(told)} of {total}")
    ends = sum(event["message"] == "The job has successfully completed" for event in events)
    if ends != 1:
        found.append(f"its end was told {ends} times")
    folder = endpoint.data / "jobs" / job
    for place in (folder / "checkpoints").iterdir():
        for name, file in json.loads((place / "manifest.json").read_text())["files"].items():
            if hashlib.sha256((place / name).read_bytes()).hexdigest() != file["sha256"]:
                found.append(f"{place.name}/{name} is not what its manifest says")
    found += [f"left over: {place.name}" for place in folder.rglob(".new-*")]
    return found


def main() -> None:
    """Kill, wait, look, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pause", type=float, default=20.0, help="longest time between two kills, in seconds")
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    chance, began = random.Random(asked.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        endpoint = Endpoint(Path(folder))
        endpoint.start()
        file = endpoint.upload(b"".join(ROWS.read_bytes().splitlines(keepends=True)[: asked.rows]))
        body = {"model": "smollm2-135m-instruct", "training_file": file, "hyperparameters": EXTRAS}
        jobs = [str(endpoint.call("/fine_tuning/jobs", body)["id"]) for _ in range(3)]
        killed: Counter[str] = Counter()
        for _ in range(asked.kills):
            time.sleep(chance.uniform(0.0, asked.pause))
            killed[kill_one(endpoint, chance)] += 1
        while any(endpoint.call(f"/fine_tuning/jobs/{job}")["finished_at"] is None for job in jobs):
            time.sleep(0.5)
        faults = {job: faults_of(endpoint, job) for job in jobs}
        if endpoint.process is not None:
            endpoint.process.send_signal(signal.SIGTERM)
            endpoint.process.wait(60)
    report = {"killed": dict(killed), "jobs": len(jobs), "seconds": round(time.monotonic() - began), "faults": faults}
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    raise SystemExit(1 if any(faults.values()) else 0)


def kill_one(endpoint: Endpoint, chance: random.Random) -> str:
    """Kill -9 the trainer or the server, which is started again; says which."""
    pids = endpoint.trainers()
    if pids and chance.random() < 0.5:
        try:
            os.kill(pids[0], signal.SIGKILL)
        except ProcessLookupError:
            return "nobody: the trainer had just ended"
        return "trainer"
    if endpoint.process is not None:
        endpoint.process.kill()
        endpoint.process.wait()
    endpoint.start()
    return "server"


if __name__ == "__main__":
    main()
