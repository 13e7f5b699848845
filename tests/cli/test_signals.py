"""Signals and pipes, with real processes: detach, leave at once, unwind, stay quiet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

COMMAND = """
import signal, sys, threading, time
from ftpipe.cli import group, main
{act}
class One(group.Group):
    def get_command(self, ctx, name):
        return group.Command("act", callback=act, example="x")
main.install_signals()
main.leave(main.execute(One(name="ftpipe", lazy={{"act": ("", "Act.")}}, example="x"), ["act"]))
"""
"""A command line with one command, whose function ``act`` is filled in."""

SLOW_TO_LEAVE = COMMAND.format(
    act="""
def act():
    print("ready", file=sys.stderr, flush=True)
    try:
        time.sleep(60)
    finally:
        time.sleep(60)
"""
)

IN_A_FINALIZER = COMMAND.format(
    act="""
class Finalized:
    def __del__(self):
        signal.raise_signal(signal.Signals(int(sys.argv[1])))
def act():
    Finalized()
    while True:
        time.sleep(60)
"""
)


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
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    assert err.startswith("stopped: no longer following the log") == (number == signal.SIGINT)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str
)
def test_signals_in_a_finalizer_end_the_command(number: signal.Signals, code: int) -> None:
    """Python drops what is raised in a finalizer or a weakref callback; the signal is not lost with it."""
    command = [sys.executable, "-c", IN_A_FINALIZER, str(number.value)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
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
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - started_at < 5


IN_A_LIBRARY = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'x', b'y', 2_000_000_000)"
"""Code that returns to Python only when its work is done, many minutes later."""
THREADS = "threading.Thread(target=threading.Event().wait).start(); threading.Event().wait()"
"""A library's own thread, which the interpreter would wait for."""


def stuck(act: str) -> subprocess.Popen[str]:
    """A command that does this and does not return."""
    script = COMMAND.format(act=f'def act():\n    print("ready", file=sys.stderr, flush=True)\n    {act}\n')
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    return process


def test_signals_interrupt_does_not_wait_for_threads() -> None:
    """For example for the rest of a download."""
    process = stuck(THREADS)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "stopped: interrupted\n"


def test_signals_interrupt_is_answered_while_library_works() -> None:
    """The first one says so, the second one ends it."""
    process = stuck(IN_A_LIBRARY)
    assert process.stderr is not None
    try:
        observed = psutil.Process(process.pid)
        before = observed.cpu_times().user
        while observed.cpu_times().user < before + 0.3:  # it computes, and does nothing else
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "\n"
        assert "Ctrl-C again stops at once" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
    finally:
        process.kill()


def test_signals_closed_pipe_is_quiet() -> None:
    """``ftpipe explain | head -0`` says nothing and ends as a shell expects."""
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        [sys.executable, "-m", "ftpipe", "explain"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")


def test_serve_starts_reports_status_and_stops(tmp_path: Path) -> None:
    """``serve`` with its own options; ``serve status``, ``key`` and ``stop`` from outside; a second server."""
    folder = ["--data-dir", str(tmp_path / "server")]
    ftpipe = [sys.executable, "-m", "ftpipe", "serve"]
    server = subprocess.Popen([*ftpipe, "--port", "0", "--max-jobs", "2", *folder], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        lines = list(
            iter(server.stderr.readline, "  export OPENAI_API_KEY=$(ftpipe serve key " + " ".join(folder) + ")\n")
        )
        url = lines[-1].strip().removeprefix("export OPENAI_BASE_URL=")
        key = subprocess.run([*ftpipe, "key", *folder], capture_output=True, check=True, text=True).stdout.strip()
        assert (status_of(url, ""), status_of(url, "wrong"), status_of(url, key)) == (401, 401, 200)
        status = subprocess.run([*ftpipe, "status", *folder, "--json"], capture_output=True, check=True)
        assert json.loads(status.stdout)["base_url"] == url
        second = subprocess.run([*ftpipe, "--port", "0", *folder], capture_output=True, check=False, text=True)
        assert second.returncode == 11
        assert url in second.stderr
        assert f"ftpipe serve stop {' '.join(folder)}" in second.stderr
        assert subprocess.run([*ftpipe, "stop", *folder], capture_output=True, check=False, timeout=60).returncode == 0
        server.communicate(timeout=60)
        assert server.returncode == 0
    finally:
        server.kill()
        server.communicate()


def status_of(url: str, key: str) -> int:
    """The status of a request with this key."""
    request = urllib.request.Request(f"{url}/models", headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
