"""Several processes: they share a file in turn, end when they are told, and are missed when they end early."""

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
from ftpipe.dataset.scan import parallel
from ftpipe.dataset.scan import worker_processes as crews
from ftpipe.dataset.scan.analyze import make_plan
from ftpipe.dataset.scan.plan import PartialScan, ScanPlan
from ftpipe.dataset.sniffer import sniff
from ftpipe.errors import LocalStateError
from tests.dataset.samples import chats, write


@pytest.fixture
def plan(tmp_path: Path) -> ScanPlan:
    """For a file of twenty dialogues, with a tokenizer that is built at once."""
    path = write(tmp_path / "chat.jsonl", [*chats(20)])
    settings = CheckSettings(engine="pure-python", processes=2)
    return make_plan(
        path, sniff(path), target="openai", method=None, model="", settings=settings, today=dt.date(2026, 11, 24)
    )  # fmt: skip


def test_two_workers_answer_for_their_ranges_and_are_gone_when_closed(plan: ScanPlan) -> None:
    """Each scans the lines that begin in its half; no process stays."""
    crew = crews.acquire_pool(plan, 2)
    family = [child for process in crew.processes for child in psutil.Process(process.pid).children(recursive=True)]
    half = plan.size // 2
    crew.workers[0].submit(0, half)
    crew.workers[1].submit(half, plan.size)
    parts = [worker.result() for worker in crew.workers]
    family += [child for process in crew.processes for child in psutil.Process(process.pid).children(recursive=True)]
    crew.close()
    examples = [part.examples for part in parts if isinstance(part, PartialScan)]
    assert sum(examples) == 20
    assert len([number for number in examples if number]) == 2
    psutil.wait_procs(family, timeout=5)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in family)


def test_a_worker_that_is_killed_is_an_error_and_not_a_wait(plan: ScanPlan) -> None:
    """The pipe ends, and the error says how to go on without processes."""
    crew = crews.acquire_pool(plan, 1)
    crew.processes[0].kill()
    started = time.monotonic()
    with pytest.raises(LocalStateError, match="ended early"):
        crew.workers[0].submit(0, plan.size)
        crew.workers[0].result()
    crew.close()
    assert time.monotonic() - started < 30


@pytest.fixture
def few_bytes_are_many(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any file is worth processes, and two of them; a crew that nobody took is closed."""
    monkeypatch.setattr(crews, "PARALLEL_MIN_BYTES", 1)
    for module in (crews, parallel):
        monkeypatch.setattr(module, "processes_for", lambda size: 2 if size else 1)
    yield
    while crews._early:
        crews._early.pop().close()


def test_a_crew_that_was_started_early_is_the_one_that_scans(plan: ScanPlan, few_bytes_are_many: None) -> None:
    """Words that name no file are passed over; the plan comes when it is known."""
    crews.prestart_workers(["prepare", "--model", "no\0name", str(plan.path.parent / "none.jsonl"), str(plan.path)])
    (waiting,) = crews._early
    crew = crews.acquire_pool(plan, 2)
    assert crew is waiting
    assert crews._early == []
    crew.workers[0].submit(0, plan.size)
    part = crew.workers[0].result()
    crew.close()
    assert isinstance(part, PartialScan)
    assert part.examples == 20


def test_a_crew_of_another_size_is_sent_home(plan: ScanPlan, few_bytes_are_many: None) -> None:
    """The settings may ask for more or fewer processes than the cores suggest."""
    crews.prestart_workers([str(plan.path)])
    (waiting,) = crews._early
    crew = crews.acquire_pool(plan, 1)
    assert crew is not waiting
    assert [process.poll() is not None for process in waiting.processes] == [True]
    crew.close()


def test_small_files_and_missing_ones_start_nothing(plan: ScanPlan) -> None:
    """A start would cost more than it saves."""
    crews.prestart_workers([str(plan.path), "missing.jsonl", str(plan.path.parent)])
    assert crews._early == []


def test_a_crew_that_nobody_needs_ends_with_the_program(tmp_path: Path) -> None:
    """Its pipes end; nothing is left behind and nothing is said."""
    path = tmp_path / "large.jsonl"
    path.write_bytes(b"x" * 2000)
    program = (
        "from ftpipe.dataset.scan import worker_processes as crew\n"
        "crew.PARALLEL_MIN_BYTES = 1000\n"
        "crew.processes_for = lambda size: 2\n"
        f"crew.prestart_workers([{str(path)!r}])\n"
        "print(crew._early[0].processes[0].pid)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    pid = int(ran.stdout)
    assert ran.stderr == ""
    deadline = time.monotonic() + 30
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(pid)


def test_the_command_scans_with_the_crew_that_it_started(
    plan: ScanPlan, few_bytes_are_many: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``ftpipe prepare FILE`` finds what one process finds."""
    monkeypatch.setattr(sys, "argv", ["ftpipe", "validate", str(plan.path), "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert crews._early == []
    assert '"examples": 20' in capsys.readouterr().out
