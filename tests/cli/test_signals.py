"""Signals and pipes, with real processes: detach, leave at once, unwind, stay quiet."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SLOW_TO_LEAVE = """
import sys, time
from ftpipe.cli import group, main
def act():
    print("ready", file=sys.stderr, flush=True)
    try:
        time.sleep(60)
    finally:
        time.sleep(60)
class One(group.Group):
    def get_command(self, ctx, name):
        return group.Command("act", callback=act, example="x")
main.install_signals()
sys.exit(main.execute(One(name="ftpipe", lazy={"act": ("", "Act.")}, example="x"), ["act"]))
"""

IN_A_FINALIZER = """
import signal, sys, time
from ftpipe.cli import group, main
class Finalized:
    def __del__(self):
        signal.raise_signal(signal.Signals(int(sys.argv[1])))
def act():
    Finalized()
    while True:
        time.sleep(60)
class One(group.Group):
    def get_command(self, ctx, name):
        return group.Command("act", callback=act, example="x")
main.install_signals()
sys.exit(main.execute(One(name="ftpipe", lazy={"act": ("", "Act.")}, example="x"), ["act"]))
"""


def following(folder: Path) -> subprocess.Popen[str]:
    """A command that stays: it follows a log."""
    (folder / "server.log").write_text("first line\n")
    command = [sys.executable, "-m", "ftpipe", "serve", "logs", "--follow", "--data-dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "first line\n"
    return process


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str
)
def test_signals_end_with_their_exit_code(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C, kill and a closed terminal: no traceback, the code that a shell expects."""
    process = following(tmp_path)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Traceback" not in err
    assert err.startswith("stopped: no longer following the log") == (number == signal.SIGINT)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str
)
def test_signals_in_a_finalizer_end_the_command(number: signal.Signals, code: int) -> None:
    """Python drops what is raised in a finalizer or a weakref callback; the signal is not lost with it."""
    command = [sys.executable, "-c", IN_A_FINALIZER, str(number.value)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)


def test_signals_second_interrupt_exits_at_once() -> None:
    """Whoever presses Ctrl-C twice does not wait for anything."""
    process = subprocess.Popen([sys.executable, "-c", SLOW_TO_LEAVE], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    started_at = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert time.monotonic() - started_at < 5


def test_signals_closed_pipe_is_quiet() -> None:
    """``ftpipe explain | head -0`` says nothing and ends as a shell expects."""
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        [sys.executable, "-m", "ftpipe", "explain"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (141, "")


def test_serve_starts_reports_status_and_stops(tmp_path: Path) -> None:
    """``serve`` with its own options, ``serve status`` and ``serve stop`` from outside."""
    folder = ["--data-dir", str(tmp_path / "server")]
    ftpipe = [sys.executable, "-m", "ftpipe", "serve"]
    server = subprocess.Popen([*ftpipe, "--port", "0", "--max-jobs", "2", *folder], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while subprocess.run([*ftpipe, "status", *folder], capture_output=True, check=False).returncode:
            assert server.poll() is None
            assert time.monotonic() < deadline
        assert subprocess.run([*ftpipe, "stop", *folder], capture_output=True, check=False, timeout=60).returncode == 0
        server.communicate(timeout=30)
        assert server.returncode == 0
    finally:
        server.kill()
        server.communicate()
