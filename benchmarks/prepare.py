"""``python -m benchmarks.prepare [--sizes 1,20,200]``: wall time, speed and memory of checking and counting a file."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.contenders import CONTENDERS
from benchmarks.corpus import write


class Measured(NamedTuple):
    """One run."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    tokens: int


def measure(name: str, path: Path) -> Measured:
    """Run one contender in a fresh process; memory is the sum of its process tree (PSS), looked at every 50 ms."""
    started = time.perf_counter()
    process = psutil.Popen([sys.executable, "-m", "benchmarks.contenders", name, str(path)], stdout=subprocess.PIPE)
    peak, cpu = 0.0, 0.0
    while process.poll() is None:
        try:
            tree = [process, *process.children(recursive=True)]
            peak = max(peak, sum(memory_of(item) for item in tree) / 1e6)
            cpu = max(cpu, sum(sum(item.cpu_times()[:2]) for item in tree))
        except psutil.Error:
            continue
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    output = process.stdout.read() if process.stdout else b""
    return Measured(seconds, cpu, peak, int(output or b"0"))


def memory_of(process: psutil.Process) -> int:
    """Bytes of a process, pages that it shares with others counted by share where the system tells."""
    full = process.memory_full_info()
    return int(getattr(full, "pss", full.rss))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1,20,200", help="megabytes, comma-separated")
    parser.add_argument("--only", default="", help="contenders, comma-separated")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ftpipe-benchmark")
    asked = parser.parse_args()
    asked.folder.mkdir(exist_ok=True)
    names = [name for name in asked.only.split(",") if name] or list(CONTENDERS)
    sys.stdout.write(
        "| size | what | seconds | CPU s | MB/s | peak MB | times cookbook |\n|---:|---|---:|---:|---:|---:|---:|\n"
    )
    for megabytes in map(int, asked.sizes.split(",")):
        path = write(asked.folder / f"chat-{megabytes}.jsonl", megabytes)
        base = 0.0
        for name in names:
            run = measure(name, path)
            base = base or run.seconds
            speed = path.stat().st_size / 1e6 / run.seconds
            sys.stdout.write(
                f"| {megabytes} MB | {name} | {run.seconds:.2f} | {run.cpu_seconds:.1f} | {speed:.1f} "
                f"| {run.peak_mb:.0f} "
                f"| {base / run.seconds:.1f} |\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
