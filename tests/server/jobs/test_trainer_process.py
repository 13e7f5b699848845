"""Trainer processes: how the system's count of processes killed for lack of memory is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ftpipe.server.jobs import trainer_process
from ftpipe.server.jobs.trainer_process import TrainerProcess, count_oom_kills
from ftpipe.server.jobs.transitions import TrainerExit
from ftpipe.training.job_directory import JobDirectory


@pytest.mark.parametrize(
    ("content", "count"), [("pgfault 5\noom_kill 3\n", 3), ("oom_kill x\n", None), ("", None), (None, None)]
)
def test_count_oom_kills_reads_the_system_counter(content: str | None, count: int | None, tmp_path: Path) -> None:
    path = tmp_path / "vmstat"
    if content is not None:
        path.write_text(content, encoding="ascii")
    assert count_oom_kills(path) == count


@pytest.mark.parametrize(
    ("before", "now", "terminated", "cause"),
    [
        (3, 4, False, "the memory ran out"),
        (3, 3, False, "it was killed, most likely because the memory ran out"),
        (None, None, False, "it was killed, most likely because the memory ran out"),
        (3, 4, True, "it was killed, most likely because the memory ran out"),
    ],
)
def test_trainer_exit_cause_uses_the_system_counter(
    before: int | None,
    now: int | None,
    terminated: bool,
    cause: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    trainer = TrainerProcess(JobDirectory(tmp_path), process.pid, process, oom_kills_before=before)
    process.kill()
    process.communicate()
    if terminated:
        trainer.terminate_sent_at = 1.0
    monkeypatch.setattr(trainer_process, "count_oom_kills", lambda: now)
    assert TrainerExit.of(trainer).cause == cause
