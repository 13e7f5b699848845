"""Commands under SIGKILL at any hosts: a run is killed some times, and then continued until it has ended."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.examples import examples
from tests.faults.endpoint import FaultEndpoint
from tests.faults.environment import KEY, LINE
from tests.faults.fork_server import TABLE, ForkServer

KILLS = int(os.environ.get("FTPIPE_KILLS", str(examples(5, 12))))
SEED = int(os.environ.get("FTPIPE_SEED", "20261124"))
NO_RUN_YET = 2


@dataclass(frozen=True)
class KillTarget:
    """A host whose runs are killed."""

    start: Callable[[], Any]
    """Makes a local copy of the host: a context manager with ``files``, ``jobs`` and ``base_url``."""
    table: str = TABLE
    """The configuration of a user of it, with ``{base_url}``."""


OPENAI_TARGET = KillTarget(lambda: FaultEndpoint(statuses=("queued", "running", "succeeded")))


@dataclass
class KillStats:
    """The results of all runs."""

    kills: int = 0
    runs: int = 0
    duplicates: int = 0
    """Paid jobs after the first of a run."""
    lost: int = 0
    """Runs that did not end with a registered run."""
    steps: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills in {self.runs} runs at {len(self.steps)} different steps: "
            f"{self.duplicates} duplicate jobs, {self.lost} lost"
        )


class ProcessRun:
    """One run of ``ftpipe train`` that is killed several times and then finishes.

    Args:
        folder: The user's folder.
        fork_server: Forks the command line.
        endpoint: What it talks to.
        table: The configuration.
        unjournaled: Whether the journal is the test double that records after the call.
    """

    def __init__(
        self,
        folder: Path,
        fork_server: ForkServer,
        endpoint: Any,
        *,
        table: str = TABLE,
        unjournaled: bool = False,
    ) -> None:
        self.folder, self.fork_server, self.endpoint, self.unjournaled = folder, fork_server, endpoint, unjournaled
        folder.mkdir()
        (folder / "train.jsonl").write_bytes(LINE * 12)
        table = table.format(base_url=endpoint.base_url)
        # without the search by key before the call, which would often save even the test double
        (folder / "ftpipe.toml").write_text(table + ("metadata_filter = false\n" if unjournaled else ""))
        self.train = True

    def go(self, **order: object) -> int:
        """Fork the command that a user would run now; returns the process id."""
        argv = ["train", "train.jsonl", "--yes"] if self.train else ["resume"]
        env = {name: KEY for name in ("X_API_KEY", "TOGETHER_API_KEY", "FIREWORKS_API_KEY")}
        env |= {"FTPIPE_HOME": str(self.folder / "home"), "NO_COLOR": "1"}
        env["FTPIPE_TRUSTED_HOSTS"] = self.endpoint.base_url
        return self.fork_server.start(argv, self.folder, env=env, unjournaled=self.unjournaled, **order)

    def ended(self) -> tuple[int, str]:
        """Wait; returns exit code and step of the kill. The next command is ``train`` again if no run was saved."""
        code, step = self.fork_server.wait()
        self.train = code == NO_RUN_YET if not self.train else code < 0 and not self.has_run()
        return code, step

    def has_run(self) -> bool:
        """Whether the run had been committed when the process was killed."""
        with contextlib.suppress(sqlite3.Error), contextlib.closing(self._database()) as database:
            return bool(database.execute("SELECT count(*) FROM runs").fetchone()[0])
        return False

    def _database(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.folder / '.ftpipe' / 'registry.db'}?mode=ro", uri=True)

    def finish(self) -> int:
        """Run commands until one succeeds."""
        code = NO_RUN_YET
        for _ in range(3):
            self.go()
            code, _step = self.ended()
            if code == 0:
                break
        return code

    def rows(self, table: str) -> int:
        """Number of rows in the registry."""
        with contextlib.closing(self._database()) as database:
            return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def kill_at_step(self, number: int) -> str:
        """Kill at a numbered commit; returns its name, empty if the run ended before."""
        self.go(kill_at=number)
        return self.ended()[1]

    def kill_at_request(self, number: int, *, acted: bool) -> str:
        """Kill when a numbered request has arrived, before or after its effect; returns its name."""
        requests_seen, killed_at = 0, ""
        started = threading.Event()
        pid = 0

        def watch(route: str) -> None:
            nonlocal requests_seen, killed_at
            requests_seen += 1
            if requests_seen == number and started.wait(60):
                killed_at = f"{route}, {'acted, answer not sent' if acted else 'arrived'}"
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        hook = "after" if acted else "before"
        setattr(self.endpoint, hook, watch)
        pid = self.go()
        started.set()
        self.ended()
        setattr(self.endpoint, hook, lambda _route: None)
        return killed_at

    def kill_after(self, seconds: float) -> str:
        """Kill after some time; returns a name if the process was still running."""
        pid = self.go()
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return "at random" if self.ended()[0] < 0 else ""


def kill_and_finish(run: ProcessRun, stats: KillStats, rng: random.Random) -> None:
    """Kill a run one to four times, at a commit, at a request or at random, and let it finish."""
    for _ in range(rng.randint(1, 4)):
        choice = rng.random()
        if choice < 0.4:
            step = run.kill_at_step(rng.randint(1, 30))
        elif choice < 0.75:
            step = run.kill_at_request(rng.randint(1, 12), acted=rng.random() < 0.6)
        else:
            step = run.kill_after(rng.uniform(0.0, 1.2))
        if step:
            stats.kills += 1
            stats.steps[step] += 1
    code = run.finish()
    stats.runs += 1
    stats.duplicates += max(len(run.endpoint.jobs) - 1, 0)
    succeeded = code == 0 and [run.rows(table) for table in ("models", "costs", "runs")] == [1, 1, 1]
    stats.lost += not succeeded
    if not succeeded or len(run.endpoint.files) != 1:
        output = (run.folder / "output.txt").read_text(errors="replace")
        pytest.fail(f"exit {code}, {len(run.endpoint.files)} files, after {stats}\n{output[-3000:]}")


def loop(
    folder: Path,
    fork_server: ForkServer,
    kills: int,
    *,
    target: KillTarget = OPENAI_TARGET,
    unjournaled: bool = False,
) -> KillStats:
    """Run until there were so many kills."""
    stats, rng = KillStats(), random.Random(SEED)
    while stats.kills < kills:
        folder_of_run = folder / str(stats.runs)
        with target.start() as endpoint:
            run = ProcessRun(folder_of_run, fork_server, endpoint, table=target.table, unjournaled=unjournaled)
            kill_and_finish(run, stats, rng)
    return stats
