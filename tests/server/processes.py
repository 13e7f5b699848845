"""A server as a process of its own, for tests that kill it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


class ServerProcess:
    """``serve`` in a process, with the fake engine and the fake trainer.

    Args:
        data_dir: Its folder.
        module: What is run; ``tests.server.contract.host`` unless given.
        changes: Settings.
    """

    def __init__(self, data_dir: Path, module: str = "tests.server.contract.host", **changes: Any) -> None:
        self.data_dir = data_dir
        self.module = module
        self.changes = changes
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it says where it listens."""
        (self.data_dir / "server.json").unlink(missing_ok=True)
        with (self.data_dir.parent / "server.out").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module, str(self.data_dir), "0", json.dumps(self.changes)],
                stdout=out,
                stderr=out,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                cwd=ROOT,
            )
        deadline = time.monotonic() + 120
        while not (self.data_dir / "server.json").exists():
            assert self.process.poll() is None, (self.data_dir.parent / "server.out").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    @property
    def note(self) -> dict[str, Any]:
        """What it wrote about itself."""
        value: dict[str, Any] = json.loads((self.data_dir / "server.json").read_text())
        return value

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal that stops it, and return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """GET, or POST a JSON body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.note["base_url"] + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            value: dict[str, Any] = json.load(answer)
        return value

    def upload(self, content: bytes) -> str:
        """Upload a training file and give its id back."""
        form = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        form += b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n' + content
        form += b"\r\n--b--\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        request = urllib.request.Request(self.note["base_url"] + "/files", form, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(json.load(answer)["id"])


def trainers_of(data_dir: Path) -> list[int]:
    """Pids of all trainers at work below a data folder."""
    import psutil

    folder = str(data_dir / "jobs")
    processes = psutil.process_iter(["pid", "cmdline", "status"])
    return [
        int(process.info["pid"])
        for process in processes
        if any(str(word).startswith(folder) for word in process.info["cmdline"] or ())
        and "ftpipe.server.jobs.file_validation" not in process.info["cmdline"]
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]
