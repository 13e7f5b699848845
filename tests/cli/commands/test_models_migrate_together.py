"""``ftpipe models migrate`` to a host where a model answers only while it is deployed: asked for, and stopped."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from ftpipe.config import Settings
from ftpipe.evaluation.request_runner import RequestRunner
from ftpipe.providers.provider import Provider
from ftpipe.registry import open_registry
from tests.cli.cli_runner import CliEnvironment, CommandResult, FakeCliContext
from tests.cli.commands.test_models_migrate import ALIAS, LABELS, OLD, LabellingModels, write_rows
from tests.fakes.clock import Clock
from tests.fakes.scripted_server import Request
from tests.fakes.together import BASE, TogetherServer
from tests.faults.together_environment import together_at


class LabellingTogether(TogetherServer):
    """Its tuned model answers correctly."""

    def chat(self, *, request: Request) -> Any:
        """``POST /v1/chat/completions``."""
        completion = super().chat(request=request)
        number = int("".join(filter(str.isdigit, request.fields["messages"][-1]["content"])))
        completion["choices"][0]["message"]["content"] = LABELS[number % 3]
        return completion


class TwoHosts(FakeCliContext):
    """OpenAI and Together, both local."""

    together: TogetherServer

    def provider(self, name: str, settings: Settings, *, start: bool = True) -> Provider:
        """The host of that name."""
        if name != "together":
            return super().provider(name, settings, start=start)
        provider = together_at(self.together.base_url, sleep=Clock().sleep)
        self._at_end.append(provider.close)
        return provider


class Move(CliEnvironment):
    """A model of OpenAI that is moved to Together."""

    together: LabellingTogether

    def make_context(self) -> FakeCliContext:
        """A context with both hosts."""
        context = TwoHosts()
        context.together = self.together
        return context

    def migrate(self, *options: str) -> CommandResult:
        """Move the model."""
        command = ("models", "migrate", OLD, "--to", "together", "--base", BASE, "--held-out", "held-out.jsonl")
        return self.run(*command, "--margin", "30", *options)

    @property
    def billed(self) -> list[str]:
        """States of the deployments that cost something."""
        states = [one["status"]["state"] for one in self.together.deployments.values()]
        return [state for state in states if not state.endswith(("STOPPED", "FAILED"))]

    @property
    def aliases(self) -> dict[str, str]:
        """Alias → model."""
        registry = open_registry()
        try:
            return registry.models.aliases()
        finally:
            registry.close()


@pytest.fixture
def move(cli: CliEnvironment) -> Iterator[Move]:
    """With a trained model at OpenAI; no request to Together was outside its description."""
    with LabellingTogether(statuses=("running", "completed")) as server:
        both = Move(cli._read)
        both.server, both.together = cli.server, server
        both.server.chat.completions = LabellingModels(cli.server)
        data = write_rows("train.jsonl", range(900, 912))
        assert both.run("train", data, "--provider", "openai", "--yes", "--epochs", "3").code == 0
        assert both.run("models", "alias", ALIAS, OLD).code == 0
        write_rows("held-out.jsonl", range(40))
        yield both
        assert server.violations == []


def test_new_model_is_deployed_for_the_comparison_and_stopped(move: Move) -> None:
    """The price per hour is told; the alias moves; nothing is billed afterwards."""
    ran = move.migrate("--yes")
    assert ran.code == 0, ran.err
    assert "for 5.49 USD per hour, until it is compared" in ran.err
    assert "was stopped" in ran.err
    assert move.billed == []
    new = move.aliases[ALIAS]
    assert new != OLD and move.aliases[OLD] == new
    assert len(move.together.jobs) == 1


@pytest.mark.slow
def test_plan_states_the_absolute_rate_and_the_deployment(move: Move) -> None:
    ran = move.migrate("--dry-run")
    assert ran.code == 0, ran.err
    text = " ".join(ran.err.split())
    assert "learning_rate not stated → 1.8e-05" in text
    assert "the new model is deployed until it is compared" in text
    ran = move.migrate("--dry-run", "--learning-rate", "2e-4", "--epochs", "5")
    text = " ".join(ran.err.split())
    assert "learning_rate not stated → 0.0002 named with --learning-rate" in text and "n_epochs 3 → 5 named" in text
    assert move.together.jobs == {}


@pytest.mark.slow
def test_limit_covers_an_hour_of_the_deployment(move: Move) -> None:
    """The trained model is not lost: a higher limit continues with it."""
    ran = move.migrate("--yes", "--max-cost", "6")
    assert ran.code != 0
    assert "with an hour of" in ran.err and "over the limit" in ran.err
    assert (len(move.together.jobs), move.together.deployments) == (1, {})
    assert move.migrate("--yes", "--max-cost", "20").code == 0
    assert len(move.together.jobs) == 1 and move.billed == []


@pytest.mark.slow
def test_interrupted_comparison_stops_the_deployment_and_continues(move: Move, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()
    run = RequestRunner.run

    def interrupted(self: RequestRunner, *args: Any, **options: Any) -> Any:
        if next(calls) == 0:
            raise KeyboardInterrupt
        return run(self, *args, **options)

    monkeypatch.setattr(RequestRunner, "run", interrupted)
    assert move.migrate("--yes").code != 0
    assert move.billed == [] and move.aliases == {ALIAS: OLD}
    assert move.migrate("--yes").code == 0
    assert move.billed == [] and len(move.together.jobs) == 1
    assert move.aliases[ALIAS] != OLD


@pytest.mark.slow
def test_repeated_migration_deploys_nothing(move: Move) -> None:
    """Every answer is cached."""
    assert move.migrate("--yes").code == 0
    before = dict(move.together.calls)
    assert move.migrate("--yes").code == 0
    created = {name for name in move.together.calls if "deployments" in name and name.startswith("POST")}
    assert {name: move.together.calls[name] for name in created} == {name: before[name] for name in created}
