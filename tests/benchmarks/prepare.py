"""Wall time, speed and memory of checking and counting a file.

Usage: ``python -m tests.benchmarks.prepare [--sizes 1,20,200]``

Packages are compiled first, as an installation does; the fastest of two runs counts. A second table has what a start
costs: the processor time of ``ftpipe --help`` and of ``ftpipe prepare`` on 100 rows, and the seconds to the first
finding of the largest file.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import json
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import psutil

import ftpipe
from tests.benchmarks.baselines import BASELINES
from tests.benchmarks.corpus import write

ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
ROOT = Path(__file__).parents[2]
ENVIRONMENT["PYTHONPATH"] = str(ROOT)


class Measurement(NamedTuple):
    """One program on one file."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    tokens: int


def measure(name: str, path: Path, runs: int) -> Measurement:
    """Run a program in fresh processes: the fastest run counts; memory and CPU time are those of one more run."""
    timed = [run_once(name, path) for _ in range(runs)]
    watched = run_once(name, path, is_watched=True)
    return watched._replace(seconds=min(run.seconds for run in timed))


def run_once(name: str, path: Path, *, is_watched: bool = False) -> Measurement:
    """One run; watched runs are sampled every 50 ms, which slows them down on a machine with few cores."""
    peak, cpu = 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [sys.executable, "-m", "tests.benchmarks.baselines", name, str(path.absolute())]
        process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT, cwd=folder)
        with ThreadPoolExecutor(1) as thread:
            output = thread.submit(process.stdout.read)
            while is_watched and not output.done():
                with contextlib.suppress(psutil.Error):
                    tree = [process, *process.children(recursive=True)]
                    peak = max(peak, sum(memory_of(item) for item in tree) / 1e6)
                    cpu = max(cpu, sum(sum(item.cpu_times()[:2]) for item in tree))
                time.sleep(0.05)
            result = json.loads(output.result())
            process.wait()
        seconds = time.perf_counter() - started
    return Measurement(seconds, cpu, peak, result if isinstance(result, int) else result["tokens"]["total"])


def memory_of(process: psutil.Process) -> int:
    """Bytes of a process, pages that it shares with others counted by share where the system tells."""
    full = process.memory_full_info()
    return int(getattr(full, "pss", full.rss))


def compile_packages() -> None:
    """Compile ftpipe, the baselines and their dependencies, so that no first run does it."""
    for folder in (Path(ftpipe.__file__).parent, Path(__file__).parent, Path(sysconfig.get_path("purelib"))):
        compileall.compile_dir(folder, quiet=2, workers=0)


def processor_seconds(*command: str) -> float:
    """Processor time of a command, the least of five runs."""
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(command, env={**ENVIRONMENT, "FTPIPE_HOME": folder}, cwd=folder, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)


def seconds_to_first_finding(path: Path) -> float:
    """Wall time from the start of ``ftpipe prepare`` to its first finding on stderr; the rest is not waited for."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**ENVIRONMENT, "FTPIPE_HOME": folder}
        command = [sys.executable, "-m", "ftpipe", "prepare", str(path)]
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for line in process.stderr or ():
            if b"first finding" in line:
                break
        seconds = time.perf_counter() - started
        process.kill()
        process.wait()
    return seconds


def print_starts(rows: Path, largest: Path) -> None:
    """Print what starting costs."""
    short = rows.with_name("rows-100-short.jsonl")
    short.write_bytes(b"".join((ROOT / "data/support_desk/train.jsonl").read_bytes().splitlines(keepends=True)[:100]))
    program = [sys.executable, "-m", "ftpipe"]
    sys.stdout.write(
        "\n| start | seconds |\n|---|---:|\n"
        f"| `ftpipe --help`, processor time | {processor_seconds(*program, '--help'):.2f} |\n"
        + "".join(
            f"| `ftpipe prepare` on 100 rows ({path.stat().st_size / 1000:.0f} kB), processor time "
            f"| {processor_seconds(*program, 'prepare', str(path)):.2f} |\n"
            for path in (short, rows)
        )
        + f"| first finding of {largest.stat().st_size / 1e6:.0f} MB | {seconds_to_first_finding(largest):.2f} |\n",
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1,20,200", help="megabytes, comma-separated")
    parser.add_argument("--only", default="", help="programs, comma-separated")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ftpipe-benchmark")
    parser.add_argument("--runs", type=int, default=2, help="of each program; the fastest counts")
    args = parser.parse_args()
    args.folder.mkdir(exist_ok=True)
    compile_packages()
    names = [name for name in args.only.split(",") if name] or list(BASELINES)
    sys.stdout.write(
        "| size | what | seconds | CPU s | MB/s | peak MB | times cookbook |\n|---:|---|---:|---:|---:|---:|---:|\n"
    )
    for megabytes in map(int, args.sizes.split(",")):
        path = write(args.folder / f"chat-{megabytes}.jsonl", megabytes)
        base, counted = 0.0, set()
        for name in names:
            run = measure(name, path, args.runs)
            base = base or run.seconds
            counted |= set() if name.startswith("tokenizer") else {run.tokens}  # which leaves roles out
            speed = path.stat().st_size / 1e6 / run.seconds
            sys.stdout.write(
                f"| {megabytes:,} MB | {name} | {run.seconds:.2f} | {run.cpu_seconds:.1f} | {speed:.1f} "
                f"| {run.peak_mb:.0f} "
                f"| {base / run.seconds:.1f} |\n"
            )
            sys.stdout.flush()
        if len(counted) > 1:
            sys.exit(f"the programs do not agree on the number of tokens: {counted}")
    rows = args.folder / "rows-100.jsonl"
    with path.open("rb") as file:
        rows.write_bytes(b"".join(islice(file, 100)))
    print_starts(rows, path)


if __name__ == "__main__":
    main()
