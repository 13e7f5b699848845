"""A large file in parts: constant memory, and going on after a kill within the hour.

``FTPIPE_BIG_BYTES=8589934592 pytest -s tests/faults/test_large.py`` sends 8 GB; without it, 256 MB.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.endpoint import FaultEndpoint

BYTES = int(os.environ.get("FTPIPE_BIG_BYTES", str(256 * 1024 * 1024)))
PART = 64_000_000 if BYTES > 1 << 30 else 8_000_000
MAX_RESIDENT_BYTES = 750 << 20 if PART > 8_000_000 else 260 << 20
"""Bytes of memory that the whole process may use, the interpreter and the SDK included (about 120 MB)."""

SCRIPT = """
import json, resource, sys
from pathlib import Path
from ftpipe.records import Dataset, DatasetFormat
from ftpipe.registry import open_registry
from ftpipe.stages.upload import UploadDataset
from tests.faults.environment import provider_at
folder, base_url, sha256, size, part = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
dataset = Dataset(path=folder / "big.jsonl", sha256=sha256, bytes=size, examples=1, format=DatasetFormat.CHAT)
provider = provider_at(base_url, uploads_above_bytes=1000, part_bytes=part, request_timeout_seconds=60.0)
progress = []
file = UploadDataset(dataset, provider, open_registry(folder / "registry.db"),
                     on_progress=lambda done, total: progress.append(done)).run()
try:  # the kernel's ru_maxrss also counts the process that started this one
    peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
except OSError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"id": file.id, "peak": peak, "steps": len(progress), "last": progress[-1]}))
"""


def start(folder: Path, endpoint: FaultEndpoint, sha256: str) -> subprocess.Popen[str]:
    """Upload in a process of its own, whose memory can be measured and which can be killed."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), endpoint.base_url, sha256, str(BYTES), str(PART)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )


def sparse(path: Path) -> str:
    """A file that takes no room on the disk; returns its digest."""
    import hashlib

    with path.open("wb") as target:
        target.truncate(BYTES)
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_multipart_upload_large_file_in_constant_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows 3, 27: killed half-way, then resumed: only what is missing is sent, in memory that does not grow."""
    digest = sparse(tmp_path / "big.jsonl")
    parts = -(-BYTES // PART)
    with FaultEndpoint(hashes_parts=False) as endpoint:
        half = threading.Event()
        endpoint.after = lambda _route: half.set() if len(endpoint.parts) >= parts // 2 else None
        first = start(tmp_path, endpoint, digest)
        assert half.wait(1800)
        first.kill()
        first.communicate()
        sent = len(endpoint.parts)
        started_at = time.monotonic()
        second = start(tmp_path, endpoint, digest)
        out, _ = second.communicate(timeout=3000)
        answer: dict[str, Any] = json.loads(out)
        seconds = time.monotonic() - started_at
    with capsys.disabled():
        print(  # noqa: T201 - the figure
            f"\nlarge file: {BYTES:,} bytes in {parts} parts, killed after {sent}, {len(endpoint.parts)} sent in all,"
            f" peak {answer['peak'] / 2**20:.0f} MiB, {seconds:.0f} s after the kill"
        )
    (file,) = endpoint.files.values()
    assert (file["bytes"], answer["last"]) == (BYTES, BYTES)
    assert answer["peak"] < MAX_RESIDENT_BYTES
    assert len(endpoint.parts) <= parts + 6
    assert answer["steps"] == parts
