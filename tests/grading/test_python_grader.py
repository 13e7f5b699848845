"""Code of graders: it scores, and whatever it tries, it reaches nothing and ends in time."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftpipe.errors import FtpipeError
from ftpipe.grading import python_grader, sandboxed_python
from ftpipe.grading.python_grader import PythonResult, SandboxError, require_sandbox, run_python

DEF = "def grade(sample, item):\n    "


def _problem() -> str:
    try:
        require_sandbox()
    except FtpipeError as exc:
        return exc.message
    return ""


needs_sandbox = pytest.mark.skipif(bool(_problem()), reason=_problem())
pytestmark = needs_sandbox


def grade(body: str, *items: dict[str, Any], before: str = "") -> list[PythonResult]:
    """The results of a function for items; the answer is always ``hi``."""
    return run_python(
        f"{before}\n{DEF}{body}", [{"sample": {"output_text": "hi"}, "item": item} for item in items or ({},)]
    )


def error_of(body: str, **item: Any) -> str:
    """Why a function gives no score."""
    (result,) = grade(body, item)
    assert result.score == 0
    return result.error


def test_function_scores_each_answer() -> None:
    """With the standard library and installed packages; what it keeps is kept for the next answer."""
    body = "seen.append(1); return len(sample['output_text']) * item['factor'] + len(seen)"
    assert grade(body, {"factor": 1}, {"factor": -2.5}, before="import re, json, math\nseen = []") == [
        PythonResult(3.0),
        PythonResult(-3.0),
    ]
    assert grade("return rapidfuzz.fuzz.ratio('ab', 'ab')", before="import rapidfuzz") == [PythonResult(100.0)]
    assert run_python(f"{DEF}return 1.0", []) == []


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("return 1 / 0", "line 3: ZeroDivisionError: division by zero"),
        ("return 'good'", "ValueError: could not convert string to float: 'good'"),
        ("return None", "TypeError"),
        ("return float('nan')", "it returned nan, which is not a finite number"),
        ("return 1e999", "it returned inf, which is not a finite number"),
        ("return sample['nothing']", "line 3: KeyError: 'nothing'"),
        ("raise SystemExit(3)", "line 3: SystemExit: 3"),
        ("raise KeyboardInterrupt", "line 3: KeyboardInterrupt"),
        ("raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})", "line 3: E"),
        ("return grade(sample, item)", "line 3: RecursionError"),
        ("import os; os._exit(3)", "its process ended with exit code 3"),
        ("import ctypes; ctypes.string_at(0)", "its process was ended by signal 11"),
        ("return bytearray(3 * 2**30)", "line 3: MemoryError"),
        ("import os; os.write(3, b'[1]\\n' * 9); return 1", "its reply is not what was expected"),
        ("import os; os.write(3, b'x' * 10**6)", "its reply is too long"),
    ],
)
def test_function_without_score_is_an_error(body: str, error: str) -> None:
    """Of that answer alone, and it says nothing of this machine's folders."""
    text = error_of(body)
    assert text.startswith(error)
    assert str(Path(sandboxed_python.__file__).parent) not in text


@pytest.mark.parametrize(
    "body",
    [
        "return open(item['file']).read()",
        "return open(item['file'], 'w').write('x')",
        "return open(item['file'] + '.new', 'x').write('x')",
        "import os; os.truncate(item['file'], 0)",
        "import os; os.remove(item['file'])",
        "import os; os.rename(item['file'], item['file'] + '.new')",
        "import os; os.chmod(item['file'], 0)",
        "import os; os.utime(item['file'], (1, 1))",
        "import os; os.symlink(item['file'], item['file'] + '.new')",
        "import os; os.mkdir(item['file'] + '.new')",
        "import os; return os.listdir(os.path.dirname(item['file']))",
        "return open('/etc/passwd').read()",
        "return open('/proc/self/environ').read()",
        "return open(f\"/proc/{item['pid']}/environ\").read()",
        "import os; os.kill(item['pid'], 9)",
        "import os, signal; signal.pidfd_send_signal(os.pidfd_open(item['pid']), 9)",
        "import os; os.setpriority(os.PRIO_PROCESS, item['pid'], 19)",
        "import resource; resource.prlimit(item['pid'], resource.RLIMIT_CPU, (1, 1))",
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))",
        "import os; return os.fork()",
        "import subprocess; return subprocess.run(['/bin/true']).returncode",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
        "import threading; threading.Thread(target=print).start()",
        "import multiprocessing; multiprocessing.Pool(2)",
        "import socket; socket.create_connection(('127.0.0.1', item['port']), 5)",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', item['port']))",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{item['port']}\", timeout=5)",
        "import fcntl; fcntl.fcntl(0, fcntl.F_SETOWN, item['pid'])",
        "import mmap; mmap.mmap(open(item['file'], 'r+').fileno(), 0)[0] = 0",
        "import tempfile; tempfile.mkdtemp()",
        "import os; return float(len(os.environ['OPENAI_API_KEY']))",
        "import ctypes; 1 / (ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(200)) + 1)",
        "import ctypes; 1 / (ctypes.CDLL(None).ptrace(16, item['pid'], 0, 0) + 1)",
    ],
)
def test_function_reaches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """No file, process, program, thread or address, and no secret."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    file = tmp_path / "secret"
    file.write_text("secret")
    before = file.stat()
    with socket.create_server(("127.0.0.1", 0)) as server, subprocess.Popen(["sleep", "60"]) as other:
        server.setblocking(False)
        try:
            item = {"file": str(file), "pid": other.pid, "port": server.getsockname()[1]}
            assert error_of(body, **item)
            assert other.poll() is None
            with pytest.raises(BlockingIOError):
                server.accept()
        finally:
            other.kill()
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    after = file.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_size) == (before.st_mode, before.st_mtime_ns, before.st_size)


@pytest.mark.slow
def test_function_that_hangs_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers after it are graded by another process; after three of them nothing is tried any more."""
    monkeypatch.setattr(python_grader, "MAX_SECONDS", 3.0)
    hang = "\n    while item['hangs']:\n        pass\n    return 1"
    late = PythonResult(error="it took longer than 3 seconds")
    assert grade(hang, {"hangs": False}, {"hangs": True}, {"hangs": False}) == [
        PythonResult(1.0),
        late,
        PythonResult(1.0),
    ]
    started = time.monotonic()
    assert grade(hang, *[{"hangs": True}] * 40) == [late] * 40
    assert time.monotonic() - started < 100


def test_source_that_hangs_while_it_is_loaded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its own time, because packages are imported."""
    monkeypatch.setattr(python_grader, "MAX_LOAD_SECONDS", 0.2)
    with pytest.raises(SandboxError, match=r"it took longer than 0\.2 seconds"):
        run_python("while True: pass", [])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "TypeError: the source has no function grade"),
        ("grade = 1", "TypeError: the source has no function grade"),
        ("def grade(:", "line 1: SyntaxError"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("raise SystemExit", "SystemExit"),
        ("import os; os._exit(0)", "its process ended with exit code 0"),
        ("\0", "SyntaxError"),
        ("(" * 100_000, "Error"),
        ("\ud800", "Error"),
    ],
)
def test_source_that_cannot_be_loaded_is_refused(source: str, message: str) -> None:
    """With what is wrong, and what to do."""
    with pytest.raises(SandboxError) as caught:
        run_python(source, [{"sample": {}, "item": {}}])
    assert message in caught.value.message
    assert caught.value.hint == "correct the source"


def test_cancelled_grading_leaves_no_process() -> None:
    """An error of the callback ends the waiting and the process."""
    before = set(psutil.Process().children())

    def cancel() -> None:
        if set(psutil.Process().children()) - before:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run_python(f"{DEF}\n    while True: pass", [{"sample": {}, "item": {}}], cancel)
    assert set(psutil.Process().children()) <= before


@pytest.mark.slow
def test_process_ends_with_a_killed_parent() -> None:
    """A trainer that is killed leaves no code running."""
    source = f"{DEF}while True: pass"
    program = f"from ftpipe.grading.python_grader import run_python\nrun_python({source!r}, [dict(sample=1, item=1)])"
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        deadline = time.monotonic() + 60
        while not (children := psutil.Process(parent.pid).children()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        while children[0].cpu_times().user < 0.2:  # Python has started, and the source runs
            assert time.monotonic() < deadline
            time.sleep(0.01)
        parent.kill()
    deadline = time.monotonic() + 60
    while children[0].is_running() and children[0].status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("reason", ["no Landlock", "no libseccomp"])
def test_system_without_limits_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """The refusal names what is missing."""
    script = tmp_path / "sandboxed.py"
    source = Path(sandboxed_python.__file__).read_text(encoding="utf-8")
    call = "    _restrict_files(libc)\n" if "Landlock" in reason else "    _restrict_calls(seccomp)\n"
    assert source.count(call) == 1
    script.write_text(source.replace(call, f"    raise UnavailableError({reason!r})\n"), encoding="utf-8")
    monkeypatch.setattr(sandboxed_python, "__file__", str(script))
    marker = tmp_path / "ran"
    with pytest.raises(SandboxError, match=f"python graders cannot be run on this system: {reason}"):
        run_python(f"open({str(marker)!r}, 'w')\n{DEF}return 1", [])
    assert not marker.exists()
