"""Fireworks on the command line, as a user has it: a configuration file, a key in ``.env``, and the whole way round."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpipe.cli import root
from ftpipe.cli.context import CliContext
from ftpipe.cli.main import execute
from ftpipe.stages import deploy
from tests.cli.cli_runner import CommandResult, chat_file
from tests.fakes.fireworks import PARENT, FireworksServer
from tests.faults.environment import KEY

TABLE = """
provider = "fireworks"
model = "qwen3-8b"

[providers.fireworks]
base_url = "{base_url}"
poll_first_seconds = 0.01
poll_max_seconds = 0.02
"""
Run = Callable[..., CommandResult]


@pytest.fixture
def host() -> Iterator[FireworksServer]:
    """A local Fireworks; at the end, every request was one that the description allows, and no signed URL got a key."""
    with FireworksServer(key=KEY, states=("JOB_STATE_RUNNING", "JOB_STATE_COMPLETED")) as running:
        yield running
    assert (running.violations, running.urls_with_key) == ([], [])


@pytest.fixture
def ftpipe(host: FireworksServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Type a command line in a folder that is configured for the local host."""
    Path("ftpipe.toml").write_text(TABLE.format(base_url=host.base_url), encoding="utf-8")
    monkeypatch.setattr(deploy, "POLL_SECONDS", 0.01)
    Path(".env").write_text(f"FIREWORKS_API_KEY={KEY}\n", encoding="utf-8")
    monkeypatch.setenv("FTPIPE_TRUSTED_HOSTS", host.base_url)
    chat_file("train.jsonl")

    def run(*argv: str) -> CommandResult:
        capsys.readouterr()
        code = execute(root, argv, CliContext())
        captured = capsys.readouterr()
        return CommandResult(code, captured.out, captured.err)

    return run


def document_of(result: CommandResult) -> Any:
    """The JSON of a command that succeeded."""
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_plan_states_rate_and_price(ftpipe: Run, host: FireworksServer) -> None:
    """Offline: the multiplier becomes a rate, and the price has its source; nothing is sent."""
    result = ftpipe("train", "train.jsonl", "--dry-run", "--epochs", "2", "--learning-rate-multiplier", "2")
    assert result.code == 0
    assert "0.0002 stands for the multiplier 2" in result.err.replace("\n", " ")
    assert host.requests == []


@pytest.mark.slow
def test_doctor_checks_key_base_and_says_what_was_not_tried(ftpipe: Run, host: FireworksServer) -> None:
    result = ftpipe("doctor", "--online", "--json")
    checks = {check["name"]: check for check in json.loads(result.out)["checks"]}
    assert checks["fireworks key"]["status"] == "ok"
    assert checks["fireworks training"]["message"].endswith("qwen3-8b can be trained with LoRA")
    assert "not tried at the real host" in checks["fireworks"]["message"]
    assert host.jobs == {}


def test_train_deploy_chat_download_and_stop(ftpipe: Run, host: FireworksServer) -> None:
    """The whole way round: one job, one deployment that is billed and then is not, an answer, the adapter's files."""
    run = document_of(ftpipe("train", "train.jsonl", "--yes", "--epochs", "2", "--json"))
    model = run["model"]["id"]
    assert model.startswith(f"{PARENT}/models/ftpipe-sft-")
    assert (len(host.jobs), len(host.datasets)) == (1, 1)
    assert ftpipe("chat", model, "-m", "hi").code != 0
    assert ftpipe("deployments", "create", model, "--yes", "--max-hourly", "5").code != 0
    assert host.deployments == {}
    created = ftpipe("deployments", "create", model, "--yes", "--max-hourly", "10")
    assert created.code == 0, created.err
    assert len(host.deployments) == 1
    assert "answer of" in ftpipe("chat", model, "-m", "hi").out
    assert model in ftpipe("deployments", "list", "--json").out
    downloaded = ftpipe("models", "download", model, "weights")
    assert downloaded.code == 0, downloaded.err
    assert {path.name for path in Path("weights").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    stopped = ftpipe("deployments", "stop", model)
    assert stopped.code == 0, stopped.err
    assert [fields["state"] for fields in host.deployments.values()] == ["DELETED"]


@pytest.mark.slow
def test_jobs_are_listed_cancelled_and_adopted(ftpipe: Run, host: FireworksServer) -> None:
    """A job that was created elsewhere is watched and registered like one of ftpipe's."""
    host.states = ("JOB_STATE_RUNNING",)
    run = document_of(ftpipe("train", "train.jsonl", "--yes", "--epochs", "2", "--detach", "--json"))
    job_id = run["job"]["id"]
    assert job_id in ftpipe("jobs", "list", "--json").out
    assert ftpipe("jobs", "cancel", job_id).code == 0
    assert next(iter(host.jobs.values()))["state"] == "JOB_STATE_CANCELLED"
    name = f"{PARENT}/supervisedFineTuningJobs/theirs"
    host.jobs[name] = {
        **{"name": name, "state": "JOB_STATE_COMPLETED", "dataset": f"{PARENT}/datasets/x", "reads": 0, "fixed": True},
        **{"baseModel": "accounts/fireworks/models/qwen3-8b", "outputModel": "theirs"},
        **{"createTime": "2026-11-01T00:00:00Z", "completedTime": "2026-11-01T01:00:00Z"},
    }
    adopted = ftpipe("jobs", "adopt", "theirs")
    assert adopted.code == 0, adopted.err
    assert f"{PARENT}/models/theirs" in ftpipe("models", "list", "--json").out
