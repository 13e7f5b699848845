"""``ftpipe models migrate`` to Fireworks: its job ids, its dataset rules, and the deployment of the comparison."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpipe.cli.context import CliContext
from ftpipe.config import Settings
from ftpipe.providers.provider import Provider
from ftpipe.stages import deploy
from tests.cli.cli_runner import CliEnvironment, FakeCliContext
from tests.cli.commands.test_models_migrate import ALIAS, LABELS, OLD, LabellingModels, write_rows
from tests.fakes.fireworks import HANDLERS, FireworksServer
from tests.fakes.scripted_server import Request
from tests.faults.environment import KEY

TABLE = """
[providers.fireworks]
base_url = "{base_url}"
poll_first_seconds = 0.01
poll_max_seconds = 0.02
"""


def labelling_chat(server: FireworksServer, request: Request, body: Any) -> Any:
    """``POST /inference/v1/chat/completions`` of a model that answers correctly."""
    completion = server.chat(request, body)
    if isinstance(completion, dict):
        number = int("".join(filter(str.isdigit, body["messages"][-1]["content"])))
        completion["choices"][0]["message"]["content"] = LABELS[number % 3]
    return completion


class TwoHosts(FakeCliContext):
    """OpenAI in memory, and Fireworks as ``ftpipe.toml`` says."""

    def provider(self, name: str, settings: Settings, *, start: bool = True) -> Provider:
        """The host of that name."""
        if name == "fireworks":
            return CliContext.provider(self, name, settings, start=start)
        return super().provider(name, settings, start=start)


class Move(CliEnvironment):
    """A command line with both hosts."""

    def make_context(self) -> FakeCliContext:
        """The context of one command."""
        return TwoHosts()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[FireworksServer]:
    """A local Fireworks; every request was one that the description allows, and no signed URL got a key."""
    monkeypatch.setitem(HANDLERS, "POST /inference/v1/chat/completions", labelling_chat)
    with FireworksServer(key=KEY, states=("JOB_STATE_RUNNING", "JOB_STATE_COMPLETED")) as running:
        yield running
    assert (running.violations, running.urls_with_key) == ([], [])


@pytest.fixture
def move(cli: CliEnvironment, host: FireworksServer, monkeypatch: pytest.MonkeyPatch) -> Move:
    """With a trained model at OpenAI."""
    Path("ftpipe.toml").write_text(TABLE.format(base_url=host.base_url), encoding="utf-8")
    monkeypatch.setenv("FIREWORKS_API_KEY", KEY)
    monkeypatch.setenv("FTPIPE_TRUSTED_HOSTS", host.base_url)
    monkeypatch.setattr(deploy, "POLL_SECONDS", 0.01)
    both = Move(cli._read)
    both.server = cli.server
    both.server.chat.completions = LabellingModels(cli.server)
    data = write_rows("train.jsonl", range(900, 912))
    assert both.run("train", data, "--provider", "openai", "--yes", "--epochs", "3").code == 0
    assert both.run("models", "alias", ALIAS, OLD).code == 0
    write_rows("held-out.jsonl", range(40))
    return both


def test_model_is_moved_to_fireworks(move: Move, host: FireworksServer) -> None:
    """One job without the seed, which cannot be stated there; one deployment, which is stopped; the alias moves."""
    command = ("models", "migrate", OLD, "--to", "fireworks", "--base", "qwen3-8b", "--held-out", "held-out.jsonl")
    ran = move.run(*command, "--margin", "30", "--yes", "--json")
    assert ran.code == 0, ran.err
    document = ran.document
    assert document["migration"]["state"] == "moved"
    assert document["base"]["name"] == "accounts/fireworks/models/qwen3-8b"
    assert document["plan"]["hyperparameters"]["learning_rate"] == pytest.approx(1.8e-4)
    assert len(host.jobs) == 1
    deployments = move.run("deployments", "list", "--provider", "fireworks", "--json").document["deployments"]
    assert [one["state"] for one in deployments if one["state"] not in ("stopped", "failed")] == []
    again = move.run(*command, "--margin", "30", "--yes")
    assert again.code == 0 and len(host.jobs) == 1
