"""Scanning in several processes: ranges, prestarted pools, and processes that end early."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ftpipe.__main__ import main
from ftpipe.dataset.check_settings import CheckSettings
from ftpipe.dataset.scan import parallel, worker_processes
from ftpipe.dataset.scan.analyze import make_plan
from ftpipe.dataset.scan.context import ScanContext
from ftpipe.dataset.scan.plan import PartialScan, ScanPlan
from ftpipe.dataset.sniffer import sniff
from ftpipe.errors import LocalStateError
from tests.dataset.samples import chats, write


@pytest.fixture
def plan(tmp_path: Path) -> ScanPlan:
    """For a file of twenty dialogues, with a tokenizer that is built at once."""
    path = write(tmp_path / "chat.jsonl", [*chats(20)])
    context = ScanContext(settings=CheckSettings(engine="pure-python", processes=2), today=dt.date(2026, 11, 24))
    return make_plan(path, sniff(path), context)


def test_worker_pool_scans_ranges_and_ends_when_closed(plan: ScanPlan) -> None:
    pool = worker_processes.acquire_pool(plan, 2)
    children = [child for process in pool.processes for child in psutil.Process(process.pid).children(recursive=True)]
    half = plan.file.size_bytes // 2
    pool.workers[0].submit(0, half)
    pool.workers[1].submit(half, plan.file.size_bytes)
    parts = [worker.result() for worker in pool.workers]
    children += [child for process in pool.processes for child in psutil.Process(process.pid).children(recursive=True)]
    pool.close()
    examples = [part.examples for part in parts if isinstance(part, PartialScan)]
    assert sum(examples) == 20
    assert len([number for number in examples if number]) == 2
    psutil.wait_procs(children, timeout=60)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_worker_pool_reports_killed_worker(plan: ScanPlan) -> None:
    pool = worker_processes.acquire_pool(plan, 1)
    pool.processes[0].kill()
    started = time.monotonic()
    with pytest.raises(LocalStateError, match="ended early"):
        pool.workers[0].submit(0, plan.file.size_bytes)
        pool.workers[0].result()
    pool.close()
    assert time.monotonic() - started < 30


@pytest.fixture
def parallel_small_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two processes for every file; a prestarted pool that no scan took is closed."""
    monkeypatch.setattr(worker_processes, "PARALLEL_MIN_BYTES", 1)
    for module in (worker_processes, parallel):
        monkeypatch.setattr(module, "processes_for", lambda size: 2 if size else 1)
    yield
    while worker_processes.prestarted_pools:
        worker_processes.prestarted_pools.pop().close()


def test_worker_pool_prestarted_is_used_for_scan(plan: ScanPlan, parallel_small_files: None) -> None:
    worker_processes.prestart_workers(
        ["prepare", "--model", "no\0name", str(plan.path.parent / "none.jsonl"), str(plan.path)]
    )
    (prestarted,) = worker_processes.prestarted_pools
    pool = worker_processes.acquire_pool(plan, 2)
    assert pool is prestarted
    assert worker_processes.prestarted_pools == []
    pool.workers[0].submit(0, plan.file.size_bytes)
    part = pool.workers[0].result()
    pool.close()
    assert isinstance(part, PartialScan)
    assert part.examples == 20


def test_worker_pool_restarts_when_size_differs(plan: ScanPlan, parallel_small_files: None) -> None:
    worker_processes.prestart_workers([str(plan.path)])
    (prestarted,) = worker_processes.prestarted_pools
    pool = worker_processes.acquire_pool(plan, 1)
    assert pool is not prestarted
    assert [process.poll() is not None for process in prestarted.processes] == [True]
    pool.close()


def test_worker_pool_is_not_prestarted_for_small_files(plan: ScanPlan) -> None:
    worker_processes.prestart_workers([str(plan.path), "missing.jsonl", str(plan.path.parent)])
    assert worker_processes.prestarted_pools == []


def test_worker_pool_unused_exits_with_parent(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    path.write_bytes(b"x" * 2000)
    program = (
        "from ftpipe.dataset.scan import worker_processes as workers\n"
        "workers.PARALLEL_MIN_BYTES = 1000\n"
        "workers.processes_for = lambda size: 2\n"
        f"workers.prestart_workers([{str(path)!r}])\n"
        "print(workers.prestarted_pools[0].processes[0].pid)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    pid = int(ran.stdout)
    assert ran.stderr == ""
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(pid)


def test_worker_pool_prestarted_by_command_scans_file(
    plan: ScanPlan, parallel_small_files: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ftpipe", "validate", str(plan.path), "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert worker_processes.prestarted_pools == []
    assert '"examples": 20' in capsys.readouterr().out
