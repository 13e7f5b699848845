"""The check of a job's files cannot stop the server, whatever is in them, and is started at most twice."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from starlette.testclient import TestClient

from ftpipe.server.http import create_app
from ftpipe.server.jobs.transitions import MAX_VALIDATION_ATTEMPTS
from ftpipe.server.jobs.validation_process import StartValidation, ValidationProcess
from ftpipe.server.services import ServerContext, build_context
from ftpipe.server.settings import ServeSettings
from tests.server.conftest import create_job, upload, wait_for
from tests.server.fakes import FAKE_TRAINER, FakeBaseModels, FakeEngine

COUNT = "import pathlib, sys; pathlib.Path(sys.argv[1]).with_name('starts').open('a').write('x'); "
HANG = COUNT + "import time\nwhile True: time.sleep(0.01)"
SPIN = COUNT + "\nwhile True: pass"
SLOW_PATTERNS = ("^(a+)+$", "^(a|a)*(?!b)$", "(((a{999}){999}){999})(?=b)")


def tool_line(pattern: str) -> str:
    """A record whose tool has a pattern, and a call with an argument on which it is slow."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"a": "a" * 40 + "!"})}}
    parameters = {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]
    return json.dumps(
        {"messages": messages, "tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}]}
    )


def server(folder: Path, start: StartValidation) -> ServerContext:
    settings = ServeSettings(data_dir=folder / "data", trainer_command=FAKE_TRAINER, poll_interval=0.02)
    return build_context(settings, engine=FakeEngine(), base_models=FakeBaseModels(), start_validation=start)


def connect(context: ServerContext) -> TestClient:
    return TestClient(create_app(context), base_url="http://127.0.0.1", raise_server_exceptions=False)


def with_script(script: str, **options: Any) -> StartValidation:
    return partial(ValidationProcess, command=(sys.executable, "-c", script), **options)


def starts(context: ServerContext, job_id: str) -> int:
    file = context.data_dir.job(job_id).path / "starts"
    return len(file.read_text()) if file.exists() else 0


def wait_until(condition: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_validation_that_hangs_fails_its_job_after_two_attempts(tmp_path: Path) -> None:
    """Meanwhile requests are answered, and the next job is checked."""
    context = server(tmp_path, with_script(SPIN, timeout_seconds=3.0))
    with connect(context) as client:
        job_id = create_job(client)["id"]
        wait_until(lambda: starts(context, job_id) == 1)
        started_at = time.monotonic()
        assert client.get("/health").status_code == 200
        assert time.monotonic() - started_at < 1
        failed = wait_for(client, job_id, "failed")
        assert failed["error"] == {
            "code": "invalid_training_file",
            "message": "The files could not be checked: it took longer than 3 seconds, as in an earlier attempt",
            "param": "training_file",
        }
        assert starts(context, job_id) == 2
        second = create_job(client)["id"]
        wait_until(lambda: starts(context, second) == 1)


def test_validation_is_ended_when_the_server_stops_and_not_counted(tmp_path: Path) -> None:
    context = server(tmp_path, with_script(HANG))
    with connect(context) as client:
        job_id = create_job(client)["id"]
        wait_until(lambda: starts(context, job_id) == 1)
        started_at = time.monotonic()
    assert time.monotonic() - started_at < 5
    folder = str(context.data_dir.job(job_id).path)
    assert [p.pid for p in psutil.process_iter(["cmdline"]) if folder in " ".join(p.info["cmdline"] or ())] == []
    again = server(tmp_path, with_script(HANG))
    with again.store.read() as tx:
        job = tx.jobs.get(job_id)
        assert job is not None
        assert (job.status, job.validation_attempts) == ("validating_files", 0)
    again.store.close()


def test_validation_during_which_the_server_always_dies_ends(tmp_path: Path) -> None:
    """The number of starts is stored before the start."""
    context = server(tmp_path, with_script(HANG))
    with connect(context) as client:
        job_id = create_job(client)["id"]
        wait_until(lambda: starts(context, job_id) == 1)
        with context.store.read() as tx:
            job = tx.jobs.get(job_id)
            assert job is not None
            assert job.validation_attempts == 1
    with connect(again := server(tmp_path, with_script(HANG))) as client:
        wait_until(lambda: starts(again, job_id) == 2)
        # As if this server had been killed during the check, and those before it.
        with again.store.write() as tx:
            tx.jobs.update(job_id, validation_attempts=MAX_VALIDATION_ATTEMPTS + 1)
    with connect(last := server(tmp_path, with_script(HANG))) as client:
        failed = wait_for(client, job_id, "failed")
        assert "killed each time" in failed["error"]["message"]
        assert starts(last, job_id) == 2


def test_validation_of_a_cancelled_job_is_ended(tmp_path: Path) -> None:
    context = server(tmp_path, with_script(HANG))
    with connect(context) as client:
        job_id = create_job(client)["id"]
        wait_until(lambda: starts(context, job_id) == 1)
        assert client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel").json()["status"] == "cancelled"
        second = create_job(client)["id"]
        wait_until(lambda: starts(context, second) == 1)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import os; os._exit(3)", "it ended with exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "it was ended by SIGKILL"),
        ("import os, signal; os.kill(os.getpid(), 40)", "it was ended by signal 40"),
        ("import os\nwhile os.nice(0) < 5: pass\nos._exit(3)", "it ended with exit code 3"),
        ("import os; os._exit(71)", "it needed more than 8 GiB of memory"),
        ("import sys; open(sys.argv[1], 'w').write('{\"code')", "it ended with exit code 0"),
    ],
)
def test_validation_crash_is_named_in_the_error(tmp_path: Path, script: str, reason: str) -> None:
    with connect(server(tmp_path, with_script(script))) as client:
        failed = wait_for(client, create_job(client)["id"], "failed")
        assert failed["error"]["message"] == f"The files could not be checked: {reason}, as in an earlier attempt"


def test_validation_process_limits_its_memory(tmp_path: Path) -> None:
    """It ends by itself with the exit code for it."""
    file = tmp_path / "train.jsonl"
    file.write_text((tool_line("a") + "\n") * 12, encoding="utf-8")
    script = (
        "import sys; from ftpipe.server.jobs import file_validation as f\n"
        "f.validate_job_files = lambda *_: bytearray(2 << 30)\nf.main(sys.argv[1:])"
    )
    arguments = [str(tmp_path / "out"), str(1 << 30), "60", "supervised", "tiny", "{}", str(file)]
    ran = subprocess.run([sys.executable, "-c", script, *arguments], timeout=60, check=False)
    assert ran.returncode == 71


@pytest.mark.slow
def test_validation_of_slow_patterns_ends_and_names_the_lines_that_are_wrong(tmp_path: Path) -> None:
    """With the real check in a real process."""
    good = [json.dumps({"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]})
            for n in range(12)]  # fmt: skip
    lines = [*good, *map(tool_line, SLOW_PATTERNS), '{"messages": []}']
    with connect(server(tmp_path, ValidationProcess)) as client:
        file = upload(client, "\n".join(lines).encode())
        failed = wait_for(client, create_job(client, training_file=file["id"])["id"], "failed", seconds=60)
        assert failed["error"]["message"].startswith("line 16")
        file = upload(client, "\n".join(lines[:-1]).encode())
        wait_for(client, create_job(client, training_file=file["id"])["id"], "succeeded", seconds=60)
