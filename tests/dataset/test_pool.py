"""Several processes: they share a file in turn, end when they are told, and are missed when they end early."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path

import psutil
import pytest

from ftpipe.dataset import crew as crews
from ftpipe.dataset.part import Part, ScanPlan
from ftpipe.dataset.peek import glance
from ftpipe.dataset.settings import CheckSettings
from ftpipe.dataset.survey import make_plan
from ftpipe.errors import StateError
from tests.dataset.samples import chats, write


@pytest.fixture
def plan(tmp_path: Path) -> ScanPlan:
    """For a file of twenty dialogues, with a tokenizer that is built at once."""
    path = write(tmp_path / "chat.jsonl", [*chats(20)])
    settings = CheckSettings(engine="lean", processes=2)
    return make_plan(
        path, glance(path), target="openai", method=None, model="", settings=settings, today=dt.date(2026, 11, 24)
    )  # fmt: skip


def test_two_workers_answer_for_their_ranges_and_are_gone_when_closed(plan: ScanPlan) -> None:
    """Each scans the lines that begin in its half; no process stays."""
    crew = crews.crew_for(plan, 2)
    family = [child for process in crew.processes for child in psutil.Process(process.pid).children(recursive=True)]
    half = plan.size // 2
    crew.workers[0].ask(0, half)
    crew.workers[1].ask(half, plan.size)
    parts = [worker.answer() for worker in crew.workers]
    family += [child for process in crew.processes for child in psutil.Process(process.pid).children(recursive=True)]
    crew.close()
    examples = [part.examples for part in parts if isinstance(part, Part)]
    assert sum(examples) == 20
    assert len([number for number in examples if number]) == 2
    psutil.wait_procs(family, timeout=5)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in family)


def test_a_worker_that_is_killed_is_an_error_and_not_a_wait(plan: ScanPlan) -> None:
    """The pipe ends, and the error says how to go on without processes."""
    crew = crews.crew_for(plan, 1)
    crew.processes[0].kill()
    started = time.monotonic()
    with pytest.raises(StateError, match="ended early"):
        crew.workers[0].ask(0, plan.size)
        crew.workers[0].answer()
    crew.close()
    assert time.monotonic() - started < 30
