"""Checks in the background: once for a file, again after a change, in a process of its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ftpipe.config import load
from ftpipe.errors import LocalStateError
from ftpipe.providers.profiles import find_profile
from ftpipe.ui.datasets.check_result import CheckResult
from ftpipe.ui.datasets.checks import MAX_STORED_RESULTS, CheckRequest, DatasetTasks, TaskState
from ftpipe.ui.datasets.worker import run_task

ROW = '{"messages":[{"role":"user","content":"hi %d"},{"role":"assistant","content":"hello"}]}\n'


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(ROW % number for number in range(12)), encoding="utf-8")
    return path


class CountingRunner:
    """Runs tasks in the thread, and counts them."""

    def __init__(self) -> None:
        self.tasks: list[Mapping[str, Any]] = []
        self.answer: dict[str, Any] | None = None
        self.may_end = threading.Event()
        self.may_end.set()

    def __call__(self, _state: TaskState, task: Mapping[str, Any]) -> dict[str, Any]:
        self.tasks.append(task)
        self.may_end.wait(30)
        return self.answer if self.answer is not None else {"result": run_task(task)}


def test_check_runs_once_for_the_same_content(tmp_path: Path, data: Path) -> None:
    run = CountingRunner()
    tasks = DatasetTasks(tmp_path / ".ftpipe", run=run)
    request = CheckRequest(data, "local", "smollm2-135m-instruct")
    run.may_end.clear()
    assert isinstance(tasks.check(request), TaskState)
    assert isinstance(tasks.check(request), TaskState)
    run.may_end.set()
    first = tasks.check(request, wait_seconds=30)
    assert isinstance(first, CheckResult)
    assert first.report.dataset.examples == 12
    assert isinstance(DatasetTasks(tmp_path / ".ftpipe", run=run).check(request), CheckResult)
    assert len(run.tasks) == 1
    with data.open("a", encoding="utf-8") as file:
        file.write(ROW % 99)
    second = tasks.check(request, wait_seconds=30)
    assert isinstance(second, CheckResult)
    assert second.report.dataset.examples == 13


def test_check_knows_the_limit_of_tokens_that_is_configured(tmp_path: Path, data: Path) -> None:
    flags = {"hyperparameters.max_length": "8", "method": "supervised"}
    settings = load(None, env={}, flags=flags, folder=tmp_path)
    request = CheckRequest.for_model(data, settings, find_profile("local", {}), "smollm2-135m-instruct")
    result = DatasetTasks(tmp_path / ".ftpipe", run=CountingRunner()).check(request, wait_seconds=30)
    assert isinstance(result, CheckResult)
    assert "FT701" in result.report.summary.counts
    assert (request.method, request.max_length) == ("supervised", 8)


def test_error_of_a_check_is_kept_until_it_is_tried_again(tmp_path: Path, data: Path) -> None:
    run = CountingRunner()
    run.answer = {"error": {"message": "it is a folder", "hint": "name a file"}}
    tasks = DatasetTasks(tmp_path / ".ftpipe", run=run)
    request = CheckRequest(data, "local", "smollm2-135m-instruct")
    state = tasks.check(request, wait_seconds=30)
    assert isinstance(state, TaskState)
    assert (state.error, state.hint) == ("it is a folder", "name a file")
    assert tasks.check(request) == state
    run.answer = None
    tasks.forget_error(request)
    assert isinstance(tasks.check(request, wait_seconds=30), CheckResult)


def test_check_can_be_started_after_its_folder_could_not_be_made(tmp_path: Path, data: Path) -> None:
    state_dir = tmp_path / ".ftpipe"
    state_dir.write_text("a file in place of the folder", encoding="utf-8")
    tasks = DatasetTasks(state_dir, run=CountingRunner())
    request = CheckRequest(data, "local", "smollm2-135m-instruct")
    with pytest.raises(LocalStateError, match="cannot be written"):
        tasks.check(request)
    state_dir.unlink()
    assert isinstance(tasks.check(request, wait_seconds=30), CheckResult)


def test_fix_writes_a_preview_beside_the_diff(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(ROW % 1 + "\n" + ROW % 2, encoding="utf-8")
    before = data.read_bytes()
    tasks = DatasetTasks(tmp_path / ".ftpipe", run=CountingRunner())
    state, output = tasks.fix(CheckRequest(data, "local", "m"), unsafe=False, wait_seconds=30)
    assert state.result is not None
    assert state.result["counts"] == {"FT007": 1}
    assert output.read_text(encoding="utf-8") == ROW % 1 + ROW % 2
    assert output.with_name("fixed.jsonl.diff").read_text(encoding="utf-8").startswith("@@ line 2 @@")
    assert data.read_bytes() == before


def test_old_results_are_deleted(tmp_path: Path, data: Path) -> None:
    tasks = DatasetTasks(tmp_path / ".ftpipe", run=CountingRunner())
    for number in range(MAX_STORED_RESULTS + 3):
        tasks.check(CheckRequest(data, "local", f"model-{number}"), wait_seconds=30)
    assert len(list((tmp_path / ".ftpipe" / "ui" / "checks").glob("*.db"))) == MAX_STORED_RESULTS


@pytest.mark.slow
def test_check_runs_in_a_process_and_reports_its_error(tmp_path: Path, data: Path) -> None:
    tasks = DatasetTasks(tmp_path / ".ftpipe")
    result = tasks.check(CheckRequest(data, "local", "smollm2-135m-instruct"), wait_seconds=120)
    assert isinstance(result, CheckResult)
    state = tasks.check(CheckRequest(data, "nowhere", "m"), wait_seconds=120)
    assert isinstance(state, TaskState)
    assert "nowhere" in state.error
    tasks.close()
