"""The kill loop: ``ftpipe train`` under SIGKILL, then ``ftpipe resume``: one file, one job, one model, one cost row.

``FTPIPE_KILLS=1000 pytest -s tests/faults/test_kill_loop.py`` runs a thousand kills; without it, some.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.faults.endpoint import FaultEndpoint
from tests.faults.fork_server import ForkServer
from tests.faults.kill_loop import KILLS, SEED, ProcessRun, loop

FULL_LOOP_KILLS = 200
"""With so many kills, every step is tried instead of one of each kind, and the loop without the journal runs, too."""


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_kill_loop_pays_once(tmp_path: Path, fork_server: ForkServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Row 1: whenever it is killed, the result is that of a run that was never killed."""
    started_at = time.monotonic()
    stats = loop(tmp_path, fork_server, KILLS)
    with capsys.disabled():
        print(f"\nkill loop: {stats}, {time.monotonic() - started_at:.0f} s, seed {SEED}")  # noqa: T201 - the figure
    assert (stats.duplicates, stats.lost) == (0, 0)


@pytest.mark.slow
def test_kill_loop_finds_double_payment_without_journal(
    tmp_path: Path, fork_server: ForkServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Check of the loop: killed between call and record, the test double pays twice; ftpipe's journal does not."""
    figures = {}
    for unjournaled in (True, False):
        with FaultEndpoint() as endpoint:
            run = ProcessRun(tmp_path / str(unjournaled), fork_server, endpoint, unjournaled=unjournaled)
            assert run.kill_at_request(number_of(run, "POST /fine_tuning/jobs"), acted=True)
            assert run.finish() == 0
            figures[unjournaled] = len(endpoint.jobs)
    assert figures == {True: 2, False: 1}
    if KILLS >= FULL_LOOP_KILLS:  # random kills seldom hit the short time between call and record
        stats = loop(tmp_path, fork_server, KILLS, unjournaled=True)
        with capsys.disabled():
            print(f"\ncall-then-record: {stats}")  # noqa: T201 - the figure
        assert stats.duplicates > 0


def number_of(run: ProcessRun, route: str) -> int:
    """The number of the request at which a run calls a route, taken from a second run."""
    with FaultEndpoint() as other:
        order: list[str] = []
        other.before = order.append
        second = ProcessRun(run.folder.with_suffix(".second"), run.fork_server, other, unjournaled=run.unjournaled)
        assert second.finish() == 0
        return order.index(route) + 1


@pytest.mark.slow
def test_kill_at_each_kind_of_commit_is_survived(tmp_path: Path, fork_server: ForkServer) -> None:
    """Row 1: killed after each kind of commit, one after the other; with many kills also before each.

    A kill before a commit has the same effect as one after the commit before it, or during the request between them.
    """
    commits, _ = whole_run(tmp_path, fork_server)
    assert any(name.startswith("after the commit of INSERT INTO operations") for name in commits)
    for number in first_of_each(commits):
        if KILLS < FULL_LOOP_KILLS and commits[number - 1].startswith("before"):
            continue
        with FaultEndpoint(statuses=("succeeded",)) as endpoint:
            run = ProcessRun(tmp_path / f"commit {number}", fork_server, endpoint)
            assert run.kill_at_step(number) == commits[number - 1]
            assert_survived(run, commits[number - 1])


@pytest.mark.slow
def test_kill_at_each_kind_of_request_is_survived(tmp_path: Path, fork_server: ForkServer) -> None:
    """Row 1: killed at each kind of request, before and after its effect, one after the other."""
    _, requests = whole_run(tmp_path, fork_server)
    assert "POST /fine_tuning/jobs" in requests
    for number in first_of_each(requests):
        for acted in (False, True) if requests[number - 1].startswith("POST") else (True,):
            with FaultEndpoint(statuses=("succeeded",)) as endpoint:
                run = ProcessRun(tmp_path / f"request {number} {acted}", fork_server, endpoint)
                assert run.kill_at_request(number, acted=acted)
                assert_survived(run, requests[number - 1])


def whole_run(folder: Path, fork_server: ForkServer) -> tuple[list[str], list[str]]:
    """The commits and the requests of a run that is never killed."""
    with FaultEndpoint(statuses=("succeeded",)) as endpoint:
        requests: list[str] = []
        endpoint.before = requests.append
        run = ProcessRun(folder / "whole", fork_server, endpoint)
        assert run.finish() == 0
        return (run.folder / "steps.txt").read_text().splitlines(), requests


def first_of_each(names: list[str]) -> list[int]:
    """1-based numbers of the first step of each name; of every step if there are many kills."""
    return [n for n, name in enumerate(names, 1) if KILLS >= FULL_LOOP_KILLS or name not in names[: n - 1]]


def assert_survived(run: ProcessRun, step: str) -> None:
    """Check that the run, killed at that step, ends as if it had not been killed."""
    code = run.finish()
    counts = [len(run.endpoint.files), len(run.endpoint.jobs), *map(run.rows, ("models", "costs", "runs"))]
    assert (code, counts) == (0, [1, 1, 1, 1, 1]), f"{step}\n{(run.folder / 'output.txt').read_text()[-2000:]}"
