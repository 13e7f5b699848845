"""``--export`` and ``jobs export``: the tool hears of it, stdout stays clean, and a missing package is told at once."""

from __future__ import annotations

import sys

import pytest

from tests.cli.cli_runner import CliEnvironment, chat_file
from tests.exporters.fakes import FakeTrackio


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch) -> FakeTrackio:
    """The package, as installed."""
    tool = FakeTrackio()
    monkeypatch.setitem(sys.modules, "trackio", tool)
    return tool


def test_an_evaluation_goes_to_a_tool_with_its_page(world: CliEnvironment, trackio: FakeTrackio) -> None:
    """A run for each arm; the document says where."""
    ran = world.run(
        "evaluate", "gpt-4.1", "--baseline", "gpt-4.1-mini", "--provider", "openai",
        "--data", str(chat_file("t.jsonl")),
        "--export", "trackio", "--project", "tickets", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert [sent["run"] for sent in ran.document["exports"]] == ["gpt-4.1-mini", "gpt-4.1"]
    assert len(trackio.stored) == 2
    assert all(run["files"] for run in trackio.stored.values())


def test_jobs_go_to_a_tool_one_or_all(world: CliEnvironment, trackio: FakeTrackio) -> None:
    """The latest where none is named; by name, alias or job; all of them twice are there once."""
    for epochs in ("2", "3"):
        world.run("train", str(chat_file()), "--provider", "openai", "--yes", "--epochs", epochs)
    models = world.run("models", "list", "--json").document["models"]
    assert world.run("jobs", "export", "--to", "trackio").code == 0
    assert len(trackio.stored) == 1
    assert world.run("jobs", "export", models[1]["job_id"], "--to", "trackio").code == 0
    every = world.run("jobs", "export", "--all", "--to", "trackio", "--json").document["exports"]
    assert {sent["run"] for sent in every} == {model["id"] for model in models}
    assert len(trackio.stored) == 2
    steps = next(iter(trackio.stored.values()))["steps"]
    assert steps[0][1]["train_loss"] > 0
    assert world.run("jobs", "export", "x", "--all", "--to", "trackio").code == 2


def test_a_missing_package_is_told_before_anything_is_asked(
    world: CliEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer is paid for and then not exported."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    data = str(chat_file("t.jsonl"))
    asked = ("evaluate", "a", "--baseline", "b", "--provider", "openai", "--data", data, "--export", "wandb")
    ran = world.run(*asked)
    assert (ran.code, "pip install 'ftpipe[wandb]'" in ran.err, world.server.calls["chat"]) == (2, True, 0)
    empty = world.run("jobs", "export", "--to", "wandb")
    assert (empty.code, "ftpipe[wandb]" in empty.err) == (2, True)
    monkeypatch.setitem(sys.modules, "trackio", FakeTrackio())
    assert "train one with `ftpipe train`" in world.run("jobs", "export", "--to", "trackio").err


def test_a_checkpoints_curve_ends_with_it(world: CliEnvironment, trackio: FakeTrackio) -> None:
    """As an arm of its own beside the last step's."""
    world.run("train", str(chat_file()), "--provider", "openai", "--yes", "--epochs", "3")
    model = world.run("models", "list", "--json").document["models"][0]
    first = min(model["checkpoints"], key=lambda one: int(one["step"]))
    data = str(chat_file("t.jsonl", first=50))
    ran = world.run("evaluate", model["id"], first["model"], "--data", data, "--export", "trackio", "--json")
    assert ran.code == 0, ran.err
    _, whole, part = trackio.stored.values()
    assert max(step for step, values in part["steps"] if "train_loss" in values) == first["step"]
    assert max(step for step, values in whole["steps"] if "train_loss" in values) > first["step"]
