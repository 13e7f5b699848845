"""Faults of the command line: signals, a suspended process, two processes, a closed pipe, a key that must not leak."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

from tests.fakes.scripted_server import refusal
from tests.faults.endpoint import FaultEndpoint
from tests.faults.environment import KEY
from tests.faults.subprocess_cli import SubprocessCli

pytestmark = pytest.mark.slow

GET_JOB = "GET /fine_tuning/jobs/{id}"
CREATE = "POST /fine_tuning/jobs"
TRAIN = ("train", "train.jsonl", "--yes")


@pytest.fixture
def shell(tmp_path: Path, endpoint: FaultEndpoint) -> SubprocessCli:
    """A user's folder at a job that runs until a test ends it."""
    endpoint.statuses = ("running",)
    return SubprocessCli(tmp_path / "work", endpoint.base_url)


def when_called(endpoint: FaultEndpoint, route: str) -> threading.Event:
    """Is set when a route is called."""
    called = threading.Event()
    endpoint.after = lambda current: called.set() if current == route else None
    return called


def finish(endpoint: FaultEndpoint, shell: SubprocessCli) -> None:
    """Let the job succeed; resume ends the run with one of each."""
    endpoint.after = lambda _route: None
    endpoint.statuses = ("succeeded",)
    ran = shell.run("resume")
    assert ran.returncode == 0, ran.stderr
    assert (len(endpoint.files), len(endpoint.jobs)) == (1, 1)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda v: str(v)
)
def test_train_signal_while_polling_leaves_job_running(
    endpoint: FaultEndpoint, shell: SubprocessCli, number: signal.Signals, code: int
) -> None:
    """Row 25: the exit code is the signal's, nothing is cancelled, and resume goes on."""
    called = when_called(endpoint, GET_JOB)
    process = shell.start(*TRAIN)
    assert called.wait(120)
    time.sleep(0.1)
    process.send_signal(number)
    _out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    if number == signal.SIGINT:
        assert "ftpipe resume" in err
    assert "POST /fine_tuning/jobs/{id}/cancel" not in endpoint.calls
    finish(endpoint, shell)


def hold_paid_call(endpoint: FaultEndpoint, seconds: float) -> tuple[threading.Event, threading.Event]:
    """Let the endpoint make the job and keep its answer back; returns (the call has arrived, let the answer go)."""
    arrived, hold = threading.Event(), threading.Event()

    def pause(route: str) -> None:
        if route == CREATE:
            arrived.set()
            hold.wait(seconds)

    endpoint.after = pause
    return arrived, hold


def test_train_interrupt_in_paid_call_is_reconciled(endpoint: FaultEndpoint, shell: SubprocessCli) -> None:
    """Row 25: Ctrl-C between the call and its answer: 130, and resume finds the job instead of paying again."""
    arrived, hold = hold_paid_call(endpoint, 60)
    process = shell.start(*TRAIN)
    assert arrived.wait(120)
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=120)
    hold.set()
    assert process.returncode == 130, err
    assert endpoint.calls[CREATE] == 1
    finish(endpoint, shell)
    assert endpoint.calls[CREATE] == 1


def test_train_second_interrupt_exits_at_once(endpoint: FaultEndpoint, shell: SubprocessCli) -> None:
    """Row 25: on a terminal, the second Ctrl-C does not wait for anything; the cursor is there again."""
    called = when_called(endpoint, GET_JOB)
    child = pexpect.spawn(
        sys.executable, ["-m", "ftpipe", *TRAIN], cwd=str(shell.folder), env=shell.env, encoding="utf-8", timeout=120
    )
    assert called.wait(120)
    time.sleep(0.2)
    started_at = time.monotonic()
    child.sendintr()
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert time.monotonic() - started_at < 5
    finish(endpoint, shell)


def test_train_continues_after_suspension(endpoint: FaultEndpoint, shell: SubprocessCli) -> None:
    """Row 26: stopped and continued, with every connection gone meanwhile; the run ends well."""
    called = when_called(endpoint, GET_JOB)
    process = shell.start(*TRAIN)
    assert called.wait(120)
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    endpoint.script(GET_JOB, refusal(503))
    endpoint.statuses = ("succeeded",)
    process.send_signal(signal.SIGCONT)
    _out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert len(endpoint.jobs) == 1


def test_train_survives_closed_pipe(endpoint: FaultEndpoint, shell: SubprocessCli) -> None:
    """Row 25: ``ftpipe train | head -0``: no traceback, one job, and the model is registered or resume does it."""
    endpoint.statuses = ("succeeded",)
    process = shell.start(*TRAIN)
    if process.stdout:
        process.stdout.close()
    err = process.stderr.read() if process.stderr else ""
    assert process.wait(120) in (0, 141), err
    if process.stderr:
        process.stderr.close()
    assert "Traceback" not in err
    assert len(endpoint.jobs) == 1
    finish(endpoint, shell)


def test_train_two_processes_make_one_job(endpoint: FaultEndpoint, shell: SubprocessCli) -> None:
    """Row 22: both end with 0 and with the same model; there is one file and one job."""
    endpoint.statuses = ("queued", "running", "running", "succeeded")
    processes = [shell.start(*TRAIN, "--json") for _ in range(2)]
    ends = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert (len(endpoint.files), len(endpoint.jobs)) == (1, 1)
    assert all('"ft:base-without-an-end:org-test::0001"' in out for out, _err in ends)


def test_train_takes_over_lock_of_killed_process(endpoint: FaultEndpoint, shell: SubprocessCli) -> None:
    """Row 23: the first holds the lock in the paid call and is killed; the second finds its job and ends well."""
    arrived, hold = hold_paid_call(endpoint, 60)
    first = shell.start(*TRAIN)
    assert arrived.wait(120)
    endpoint.after = lambda _route: None
    endpoint.statuses = ("succeeded",)
    second = shell.start(*TRAIN)
    time.sleep(1.5)
    first.kill()
    hold.set()
    first.communicate()
    _out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert endpoint.calls[CREATE] == 1


def _echoes(endpoint: FaultEndpoint) -> None:
    endpoint.script("POST /uploads", refusal(401, "invalid_api_key", f"Incorrect API key provided: {KEY}"))


def _echoes_at_create(endpoint: FaultEndpoint) -> None:
    endpoint.script(CREATE, refusal(400, None, f"header Authorization: Bearer {KEY} is not allowed"))


def _succeeds(endpoint: FaultEndpoint) -> None:
    endpoint.statuses = ("succeeded",)


@pytest.mark.parametrize("scenario", [_echoes, _echoes_at_create, _succeeds], ids=lambda scenario: scenario.__name__)
def test_api_key_is_never_written(
    endpoint: FaultEndpoint, shell: SubprocessCli, scenario: Callable[[FaultEndpoint], None]
) -> None:
    """Row 40: output, traceback, JSON, database, log, locks, prepared files: the canary is nowhere."""
    scenario(endpoint)
    runs = [shell.run(*TRAIN, "--debug"), shell.run("status", "--json")]
    for ran in runs:
        assert KEY not in ran.stdout + ran.stderr
    written = [path for path in shell.folder.rglob("*") if path.is_file()]
    assert any(path.name == "registry.db" for path in written)
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []


def test_api_key_is_not_in_process_list(shell: SubprocessCli, endpoint: FaultEndpoint) -> None:
    """Row 40: keys come from the environment alone, so ``ps`` shows none."""
    called = when_called(endpoint, GET_JOB)
    process = shell.start(*TRAIN)
    assert called.wait(120)
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    process.kill()
    process.communicate()
    assert KEY not in listed
    assert os.environ.get("X_API_KEY") is None


def test_hostile_names_stay_inside_folder(endpoint: FaultEndpoint, shell: SubprocessCli) -> None:
    """Row 35: ids and file names that a server sends never become paths, and escapes are not printed."""
    endpoint.statuses = ("succeeded",)
    nasty = "../../../tmp/ftpipe-owned\x1b]0;owned\x07"
    endpoint.store(nasty, b"x")
    endpoint.seed_job(training_file="file-0001", status="succeeded", id="ftjob-a..b", user_provided_suffix="../../x")
    adopted = shell.run("jobs", "adopt", "ftjob-a..b", "--provider", "test")
    assert "\x1b" not in adopted.stdout + adopted.stderr
    assert "Traceback" not in adopted.stderr
    assert adopted.returncode == 0, adopted.stderr
    assert not Path("/tmp/ftpipe-owned").exists()
    assert {path.name for path in shell.folder.iterdir()} <= {"train.jsonl", "ftpipe.toml", ".ftpipe", "home"}
