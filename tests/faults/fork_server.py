"""Runs ``ftpipe`` in forked processes that can be killed at any step, a thousand times in minutes.

``python -m tests.faults.fork_server`` imports everything once and then forks a child for each order that it reads from
stdin. A child runs the real command line. Its named steps are the moments before and after each of its database
commits; at the step that the order names it sends itself SIGKILL, so nothing is flushed, closed or unlocked.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

TABLE = """
provider = "test"
model = "base-without-an-end"

[providers.test]
title = "the test endpoint"
base_url = "{base_url}"
key_env = "X_API_KEY"
list_lag_seconds = 0.1
poll_first_seconds = 0.01
poll_max_seconds = 0.02
uploads_above_bytes = 1000
part_bytes = 400
"""


class ForkServer:
    """The process that forks; a context manager."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.fork_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={name: value for name, value in os.environ.items() if not name.startswith("FTPIPE_")},
        )
        self._read()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.communicate()

    def start(self, argv: list[str], folder: Path, **order: Any) -> int:
        """Fork a child that runs a command line in a folder; returns its process id."""
        self._write({"argv": argv, "folder": str(folder), **order})
        return int(self._read()["pid"])

    def wait(self) -> tuple[int, str]:
        """Exit code of the child (negative for a signal), and the step at which it killed itself."""
        self._write({})
        answer = self._read()
        return int(answer["code"]), str(answer["step"])

    def _write(self, order: dict[str, Any]) -> None:
        if self._process.stdin is None:
            raise RuntimeError("the fork server has not been started")
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        if self._process.stdout is None:
            raise RuntimeError("the fork server has not been started")
        return dict(json.loads(self._process.stdout.readline()))


class StepCounter:
    """Counts the named steps of a child and kills it at the one that was ordered."""

    def __init__(self, kill_at: int, log: int) -> None:
        self.count, self._kill_at, self._log = 0, kill_at, log

    def __call__(self, name: str) -> None:
        """A step."""
        self.count += 1
        with Path("steps.txt").open("a") as steps:
            steps.write(f"{name}\n")
        if self.count == self._kill_at:
            os.write(self._log, f"{name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(self) -> None:
        """Make steps of the moments before and after every commit, named by what it writes."""
        import sqlalchemy as sa

        wrote: list[str] = []

        def remember(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            words = statement.split()
            if words[0] in ("INSERT", "UPDATE", "DELETE", "CREATE"):
                wrote.append(" ".join(words[:3]).rstrip("("))

        def before(_connection: Any) -> None:
            self(f"before the commit of {', '.join(dict.fromkeys(wrote)) or 'nothing'}")

        def after(*_: Any) -> None:
            if wrote:
                self(f"after the commit of {', '.join(dict.fromkeys(wrote))}")
                wrote.clear()

        sa.event.listen(sa.Engine, "before_cursor_execute", remember)
        sa.event.listen(sa.Engine, "commit", before)
        sa.event.listen(sa.pool.Pool, "reset", after)


def child(order: dict[str, Any], log: int) -> int:
    """Run the command line; returns its exit code."""
    os.chdir(order["folder"])
    os.environ.update(order.get("env", {}))
    out = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number in (0, 1, 2):
        os.dup2(out if number else os.open(os.devnull, os.O_RDONLY), number)
    os.setsid()
    if order.get("unjournaled"):
        from tests.faults.unjournaled_client import call_then_record

        call_then_record()
    StepCounter(order.get("kill_at", 0), log).hook()
    from ftpipe.cli import run

    try:
        run(order["argv"])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def preload() -> None:
    """Load what a run needs, by a dry run, so that children have it already."""
    import importlib
    import tempfile

    for name in ("openai", "sqlalchemy.dialects.sqlite", "ftpipe.pipeline.pipeline", "ftpipe.providers.openai"):
        importlib.import_module(name)
    importlib.import_module("ftpipe.providers.together.open")
    for name in ("ftpipe.cli.commands.resume", "ftpipe.cli.output.run", "ftpipe.reports.runs"):
        importlib.import_module(name)
    from ftpipe.cli import run

    working_directory, stdout = Path.cwd(), os.dup(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("ftpipe.toml").write_text(TABLE.format(base_url="http://127.0.0.1:9/v1"))
        line = '{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"hello"}]}\n'
        Path("train.jsonl").write_text(line * 12)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        with contextlib.suppress(SystemExit):
            run(["train", "train.jsonl", "--dry-run", "--quiet"])
        os.chdir(working_directory)
    sys.stdout.flush()
    os.dup2(stdout, 1)


def serve() -> None:
    """Fork for each order, and wait for the child on request."""
    preload()
    sys.stdout.write("{}\n")
    sys.stdout.flush()
    pid, pipe = 0, 0
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        if order:
            pipe, log = os.pipe()
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                os._exit(child(order, log))
            os.close(log)
            answer: dict[str, Any] = {"pid": pid}
        else:
            _, status = os.waitpid(pid, 0)
            answer = {"code": os.waitstatus_to_exitcode(status), "step": os.read(pipe, 4096).decode().strip()}
            os.close(pipe)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
