"""A model of a whole OpenAI account is moved: nothing there is changed, nothing is asked twice, and back again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpipe.cli import root
from ftpipe.cli.context import CliContext
from ftpipe.cli.main import execute
from ftpipe.config import Settings
from ftpipe.pipeline.pipeline import Pipeline
from ftpipe.providers.openai import open_openai
from ftpipe.providers.profiles import find_profile
from ftpipe.providers.provider import Provider
from ftpipe.registry import Registry, open_registry
from tests.cli.cli_runner import CommandResult
from tests.fakes.account_contents import MAIN_MODEL, SUPPORT_DESK
from tests.fakes.clock import Clock
from tests.fakes.openai_account import OpenAIAccount
from tests.fakes.openai_client import FakeOpenAI, Fault, _Completions
from tests.migration.conftest import RunCommand

TEST = str(SUPPORT_DESK / "test.jsonl")
MARGIN = ("--margin", "25")
"""48 prompts decide no smaller margin."""


class SupportDesk(_Completions):
    """A model that has learnt the support desk's data."""

    def __init__(self, server: FakeOpenAI) -> None:
        super().__init__(server)
        rows = [json.loads(line) for line in (SUPPORT_DESK / "test.jsonl").read_text("utf-8").splitlines()]
        self._answers = {row["messages"][-2]["content"]: row["messages"][-1]["content"] for row in rows}

    def create(self, *, model: str, messages: list[dict[str, Any]], stream: bool = False, **_sampling: Any) -> Any:
        """One answer."""
        answer = self._answers.get(messages[-1]["content"], "other")
        return self.server.serve("chat", lambda: self._completion(answer))


class LocalSide(CliContext):
    """The embedded server in memory; OpenAI is the account."""

    server: FakeOpenAI

    def provider(self, name: str, settings: Settings, *, start: bool = True) -> Provider:
        """The account, or the server in memory."""
        if name != "local":
            return super().provider(name, settings, start=start)
        profile = find_profile("local").model_copy(update={"base_url": "http://127.0.0.1:1/v1"})
        return open_openai(profile, {}, client=self.server.as_client(), sleep=Clock().sleep)

    def pipeline(self, provider: Provider, registry: Registry, settings: Settings | None = None) -> Pipeline:
        """A pipeline that never really waits."""
        return Pipeline(provider=provider, registry=registry, sleep=Clock().sleep)


class Move:
    """Moves the account's main model."""

    def __init__(self, account: OpenAIAccount, read: Callable[[], Any]) -> None:
        self.account = account
        self._read = read
        self.server = FakeOpenAI()
        self.server.chat.completions = SupportDesk(self.server)

    def migrate(self, *options: str) -> CommandResult:
        """``ftpipe models migrate`` to this machine."""
        context = LocalSide()
        context.server = self.server
        self._read()
        code = execute(root, ("models", "migrate", *options), context)
        captured = self._read()
        return CommandResult(code, captured.out, captured.err)

    @property
    def aliases(self) -> dict[str, str]:
        """Alias → model."""
        registry = open_registry()
        try:
            return registry.models.aliases()
        finally:
            registry.close()


@pytest.fixture
def move(account: OpenAIAccount, capsys: pytest.CaptureFixture[str]) -> Iterator[Move]:
    """At the end nothing at the account was changed or paid twice."""
    before = account.state_digest()
    yield Move(account, capsys.readouterr)
    assert account.changes == [] and account.state_digest() == before
    assert account.paid_twice() == []


FULL = (MAIN_MODEL, "--to", "local", "--yes", "--held-out", TEST, *MARGIN)


def test_whole_move_of_a_model_that_only_the_account_knows(move: Move) -> None:
    """Adopted, its data downloaded, retrained, compared, moved, and moved back."""
    ran = move.migrate(*FULL, "--json")
    assert ran.code == 0, ran.err
    migration = ran.document["migration"]
    assert (migration["state"], migration["data_source"]) == ("moved", "provider")
    assert Path(migration["data"]).read_bytes() == (SUPPORT_DESK / "train.jsonl").read_bytes()
    [comparison] = migration["comparisons"]
    assert comparison["items"] == 48 and comparison["old_score"] < comparison["new_score"] == 1.0
    changes = {change["name"]: change for change in migration["changes"]}
    assert changes["learning_rate_multiplier"]["after"] == "1"
    assert move.aliases == {MAIN_MODEL: migration["new_model"]}
    assert move.migrate("--rollback", MAIN_MODEL).code == 0
    assert move.aliases == {MAIN_MODEL: MAIN_MODEL}


@pytest.mark.slow
def test_recording_is_enough_when_the_old_model_is_gone(move: Move, run_command: RunCommand) -> None:
    """Recorded and backed up while it lived; moved on the day after its shutdown without a single question to it."""
    ran = run_command(
        "models", "record", MAIN_MODEL, "--provider", "openai", "--prompts", TEST, "-o", "golden.jsonl", "--yes"
    )
    assert ran.code == 0, ran.err
    assert run_command("models", "backup", MAIN_MODEL, "saved", "--provider", "openai").code == 0
    paid, move.account.skew = len(move.account.paid), 86_400.0 * 60
    ran = move.migrate(
        MAIN_MODEL, "--to", "local", "--yes", "--recording", "golden.jsonl", "--backup", "saved", *MARGIN, "--json"
    )
    assert ran.code == 0, ran.err
    migration = ran.document["migration"]
    assert (migration["state"], migration["data_source"]) == ("moved", "backup")
    assert len(move.account.paid) == paid


KILLS = [("files.create", 1), ("jobs.create", 1), ("jobs.retrieve", 1), ("chat", 7), ("chat", 48)]


@pytest.mark.slow
@pytest.mark.parametrize(("call", "number"), KILLS)
def test_move_killed_at_the_new_host_continues(move: Move, call: str, number: int) -> None:
    """One job, and no question to the old model twice."""
    faults: list[Fault | None] = [None] * (number - 1)
    move.server.fail_next(call, *faults, Fault(error=KeyboardInterrupt(), executed=True))  # type: ignore[arg-type]  # a kill
    assert move.migrate(*FULL).code != 0
    assert move.aliases == {}
    ran = move.migrate(*FULL)
    assert ran.code == 0, ran.err
    assert len(move.server.stored_jobs) == 1
    assert len(move.account.paid) == 48
