"""Recording under SIGKILL: whenever it is killed and run again, no batch is created twice and no answer is paid twice.

``FTPIPE_KILLS=20 pytest -s tests/migration/test_record_kills.py`` kills 20 times in each way; without it, some.

One by one, the answer that an endpoint was giving at the moment of the kill cannot be asked for again. The next run
says how many such requests there were, at most one for each that was concurrent, and only they are repeated.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ftpipe.migration.recording import read_recording
from tests.examples import examples
from tests.fakes.account_contents import MAIN_MODEL, SUPPORT_DESK
from tests.fakes.openai_account import OpenAIAccount
from tests.faults.environment import KEY
from tests.faults.fork_server import ForkServer

KILLS = int(os.environ.get("FTPIPE_KILLS", str(examples(2, 8))))
SEED = int(os.environ.get("FTPIPE_SEED", "20261129"))
PROMPTS, SAMPLES, CONCURRENCY = 6, 2, 4
REQUESTS_OF_A_BATCH = 9
"""Of a run that asks in one batch: lists, upload, creation, four looks, and a download."""
SETTINGS = """
[providers.openai]
list_lag_seconds = 0.05
poll_first_seconds = 0.002
poll_max_seconds = 0.004
"""
WHILE_MODELS_LIVE = datetime(2026, 11, 29, 12, tzinfo=UTC)


class KilledRecording:
    """A recording that is killed several times and then finishes."""

    def __init__(self, folder: Path, fork_server: ForkServer, account: OpenAIAccount, way: str) -> None:
        self.folder, self.fork_server, self.account, self.way = folder, fork_server, account, way
        folder.mkdir(parents=True)
        (folder / "ftpipe.toml").write_text(SETTINGS)
        lines = (SUPPORT_DESK / "test.jsonl").read_text("utf-8").splitlines(keepends=True)
        (folder / "held.jsonl").write_text("".join(lines[:PROMPTS]), encoding="utf-8")
        self.lost = 0
        """Requests that were sent and have no answer on the disk, at all kills together."""

    def go(self, **order: object) -> int:
        argv = ["models", "record", MAIN_MODEL, "--provider", "openai", "--prompts", "held.jsonl", "--yes", self.way]
        argv += ["--samples", str(SAMPLES), "--concurrency", str(CONCURRENCY), "--output", "golden.jsonl"]
        env = {"OPENAI_API_KEY": KEY, "FTPIPE_HOME": str(self.folder / "home"), "NO_COLOR": "1"}
        env |= {"OPENAI_BASE_URL": self.account.base_url}
        return self.fork_server.start(argv, self.folder, env=env, **order)

    def kill_at_request(self, number: int, *, acted: bool) -> bool:
        """Kill when a numbered request has arrived, before or after its effect; whether it came to that."""
        seen, is_killed, pid = 0, False, 0
        started = threading.Event()

        def watch(_route: str) -> None:
            nonlocal seen, is_killed
            seen += 1
            if seen == number and started.wait(60):
                is_killed = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        hook = "after" if acted else "before"
        setattr(self.account, hook, watch)
        pid = self.go()
        started.set()
        self.fork_server.wait()
        setattr(self.account, hook, lambda _route: None)
        return is_killed

    def kill_after(self, seconds: float) -> bool:
        pid = self.go()
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return self.fork_server.wait()[0] < 0

    def kill(self, rng: random.Random) -> bool:
        """Kill once at random; whether it was still running."""
        choice = rng.random()
        if choice < 0.3:
            self.go(kill_at=rng.randint(1, 12))
            is_killed = self.fork_server.wait()[0] < 0
        elif choice < 0.8:
            requests = REQUESTS_OF_A_BATCH if self.way == "--batch" else PROMPTS * (1 + SAMPLES)
            is_killed = self.kill_at_request(rng.randint(1, requests), acted=rng.random() < 0.6)
        else:
            is_killed = self.kill_after(rng.uniform(0.1, 1.0))
        self.lost += len(self.open_requests())
        return is_killed

    def open_requests(self) -> set[str]:
        """Requests that were sent one by one and have no answer on the disk."""
        keys: set[str] = set()
        for path in self.folder.glob(".ftpipe/recordings/*/spending-*.ndjson"):
            entries = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
            last = {entry["key"]: entry for entry in entries if entry["key"].startswith("answer/")}
            keys |= {key for key, entry in last.items() if "reserved" in entry}
        for path in self.folder.glob(".ftpipe/recordings/*/answers-*.ndjson"):
            keys -= {json.loads(line)["key"] for line in path.read_bytes().split(b"\n")[:-1]}
        return keys

    def finish(self) -> None:
        """Run to the end, and once more, which asks nothing."""
        for _ in range(2):
            self.go()
            code, _step = self.fork_server.wait()
            assert code == 0, (self.folder / "output.txt").read_text(errors="replace")[-3000:]


def skew() -> float:
    return WHILE_MODELS_LIVE.timestamp() - time.time()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", ["--batch", "--no-batch"])
def test_record_kill_loop_pays_each_answer_once(
    tmp_path: Path, fork_server: ForkServer, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    rng, kills, runs, repeated, lost = random.Random(SEED), 0, 0, 0, 0
    while kills < KILLS:
        with OpenAIAccount(skew=skew()) as account:
            before = account.state_digest()
            recording = KilledRecording(tmp_path / f"{way}-{runs}", fork_server, account, way)
            for _ in range(rng.randint(1, 4)):
                kills += recording.kill(rng)
            recording.finish()
            runs += 1
            written = read_recording(recording.folder / "golden.jsonl").prompts
            assert [len(one.samples) for one in written] == [1 + SAMPLES] * PROMPTS
            times = Counter((one.model, one.body_sha256) for one in account.paid)
            assert len(times) == PROMPTS * (1 + SAMPLES)
            repeated += sum(times.values()) - len(times)
            lost += recording.lost
            assert len(account.batches) == (way == "--batch")
            assert account.state_digest() == before
            routes = {path.partition("?")[0] for path in (one.path for one in account.changes)}
            assert routes == ({"/v1/files", "/v1/batches"} if way == "--batch" else set())
    with capsys.disabled():
        print(  # noqa: T201 - the figures
            f"\nrecording {way}: {kills} kills in {runs} recordings, {repeated} answers paid twice; "
            f"{lost} requests were being answered at a kill"
        )
    assert repeated <= lost
    if way == "--batch":
        assert (repeated, lost) == (0, 0)
