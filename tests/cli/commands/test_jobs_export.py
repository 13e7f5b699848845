"""``ftpipe jobs export`` and ``evaluate --export``: what is sent to a tool, and a missing package."""

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


def test_evaluate_export_sends_each_arm_with_the_page(cli: CliEnvironment, trackio: FakeTrackio) -> None:
    """A run for each arm; the document says where."""
    ran = cli.run(
        "evaluate", "gpt-4.1", "--baseline", "gpt-4.1-mini", "--provider", "openai",
        "--data", str(chat_file("t.jsonl")),
        "--export", "trackio", "--project", "tickets", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert [sent["run"] for sent in ran.document["exports"]] == ["gpt-4.1-mini", "gpt-4.1"]
    assert len(trackio.stored) == 2
    assert all(run["files"] for run in trackio.stored.values())


def test_jobs_export_sends_one_job_or_all(cli: CliEnvironment, trackio: FakeTrackio) -> None:
    """The latest where none is named; by name, alias or job; all of them twice are there once."""
    for epochs in ("2", "3"):
        cli.run("train", str(chat_file()), "--provider", "openai", "--yes", "--epochs", epochs)
    models = cli.run("models", "list", "--json").document["models"]
    assert cli.run("jobs", "export", "--to", "trackio").code == 0
    assert len(trackio.stored) == 1
    assert cli.run("jobs", "export", models[1]["job_id"], "--to", "trackio").code == 0
    every = cli.run("jobs", "export", "--all", "--to", "trackio", "--json").document["exports"]
    assert {sent["run"] for sent in every} == {model["id"] for model in models}
    assert len(trackio.stored) == 2
    steps = next(iter(trackio.stored.values()))["steps"]
    assert steps[0][1]["train_loss"] > 0
    assert cli.run("jobs", "export", "x", "--all", "--to", "trackio").code == 2


def test_export_reports_a_missing_package_first(cli: CliEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer is paid for and then not exported."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    data = str(chat_file("t.jsonl"))
    argv = ("evaluate", "a", "--baseline", "b", "--provider", "openai", "--data", data, "--export", "wandb")
    ran = cli.run(*argv)
    assert (ran.code, "pip install 'ftpipe[wandb]'" in ran.err, cli.server.calls["chat"]) == (2, True, 0)
    empty = cli.run("jobs", "export", "--to", "wandb")
    assert (empty.code, "ftpipe[wandb]" in empty.err) == (2, True)
    monkeypatch.setitem(sys.modules, "trackio", FakeTrackio())
    assert "train one with `ftpipe train`" in cli.run("jobs", "export", "--to", "trackio").err


def test_evaluate_export_ends_a_checkpoint_curve_at_its_step(cli: CliEnvironment, trackio: FakeTrackio) -> None:
    """As an arm of its own beside the last step's."""
    cli.run("train", str(chat_file()), "--provider", "openai", "--yes", "--epochs", "3")
    model = cli.run("models", "list", "--json").document["models"][0]
    first = min(model["checkpoints"], key=lambda one: int(one["step"]))
    data = str(chat_file("t.jsonl", first=50))
    ran = cli.run("evaluate", model["id"], first["model"], "--data", data, "--export", "trackio", "--json")
    assert ran.code == 0, ran.err
    _, whole, part = trackio.stored.values()
    assert max(step for step, values in part["steps"] if "train_loss" in values) == first["step"]
    assert max(step for step, values in whole["steps"] if "train_loss" in values) > first["step"]
