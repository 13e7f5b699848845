"""Training at Together on the command line, and what follows: deployments, their costs, chat, weights, and the stop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpipe.cli import root
from ftpipe.cli.main import execute
from ftpipe.config import Settings
from ftpipe.providers.provider import Provider
from tests.cli.cli_runner import CliEnvironment, CommandResult, FakeCliContext, chat_file
from tests.fakes.clock import Clock
from tests.fakes.together import TogetherServer
from tests.faults.together_environment import together_at

TRAIN = ("train", "--provider", "together", "--epochs", "2", "--learning-rate-multiplier", "2", "--suffix", "desk")


class TogetherCliContext(FakeCliContext):
    """A context whose every provider is one local Together, and whose clock stands still."""

    together: TogetherServer

    def provider(self, name: str, settings: Settings, *, start: bool = True) -> Provider:
        """The local Together."""
        provider = together_at(self.together.base_url, sleep=Clock().sleep)
        self._at_end.append(provider.close)
        return provider


class TogetherCli(CliEnvironment):
    """A command line at a local Together."""

    together: TogetherServer

    def run(self, *argv: str) -> CommandResult:
        """Type a command line."""
        context = TogetherCliContext()
        context.together = self.together
        self._read()
        code = execute(root, argv, context)
        return CommandResult(code, *self._read())


@pytest.fixture
def together(capsys: pytest.CaptureFixture[str]) -> Iterator[TogetherCli]:
    """In a folder of its own; no request was outside the description."""
    with TogetherServer(statuses=("running", "completed")) as server:
        cli = TogetherCli(lambda: (lambda one: (one.out, one.err))(capsys.readouterr()))
        cli.together = server
        yield cli
        assert server.violations == []


@pytest.fixture
def trained(together: TogetherCli) -> TogetherCli:
    """With a model that was trained there."""
    ran = together.run(*TRAIN, str(chat_file()), "--yes")
    assert ran.code == 0, ran.err
    return together


def model_of(cli: TogetherCli) -> str:
    name: str = cli.run("models", "list", "--json").document["models"][0]["id"]
    return name


def test_train_plan_states_rate_and_minimum(together: TogetherCli) -> None:
    """Before anything is sent."""
    ran = together.run(*TRAIN, str(chat_file()), "--dry-run")
    text = " ".join(ran.err.split())
    assert "learning rate 2e-05 stands for the multiplier 2" in text
    assert "minimum charge" in text
    assert together.together.calls == {}


def test_train_says_that_a_base_cannot_be_served(together: TogetherCli) -> None:
    """And refuses what is outside the host's limits, before the question and before anything is uploaded."""
    together.together.is_servable = False
    ran = together.run(*TRAIN, str(chat_file()))
    assert (ran.code, "not be served there" in ran.err) == (2, True)
    over = together.run("train", "--provider", "together", "--epochs", "21", str(chat_file()), "--yes")
    assert (over.code, "epochs can be from 1 to 20" in over.err) == (5, True)
    assert together.together.files == {}


def test_doctor_online_checks_the_host(together: TogetherCli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key, jobs, the base and its limits; only calls that change nothing."""
    monkeypatch.setenv("TOGETHER_BASE_URL", together.together.base_url)
    monkeypatch.setenv("TOGETHER_API_KEY", "sk-test-0123456789abcdef")
    ran = together.run("doctor", "--online", "--provider", "together")
    assert "together key" in ran.out
    assert "accepted; files, jobs and models can be read" in ran.out
    assert "can be fine-tuned" in ran.out
    assert all(route.startswith("GET ") for route in together.together.calls)


def test_train_result_names_the_deployment(together: TogetherCli) -> None:
    """The model answers only then."""
    ran = together.run(*TRAIN, str(chat_file()), "--yes")
    assert "ftpipe deployments create team/Qwen3.5-9B-desk-" in ran.out
    assert "Next: ftpipe deployments create team/Qwen3.5-9B-desk-" in ran.err
    assert together.together.bodies[0]["learning_rate"] == 2e-5


def test_deployment_is_listed_as_billed_until_it_is_stopped(trained: TogetherCli) -> None:
    """By `status`, `jobs list` and `deployments list`, with the price of an hour."""
    model = model_of(trained)
    created = trained.run("deployments", "create", model, "--yes", "--max-hourly", "6", "--json").document
    name = created["deployment"]["name"]
    assert (created["deployment"]["state"], created["deployment"]["price_per_hour"]) == ("ready", 5.49)
    for command in (("status",), ("jobs", "list"), ("jobs", "list", "--provider", "together")):
        ran = trained.run(*command)
        assert f"ftpipe deployments stop {name}" in ran.out
    assert "5.49 USD per hour" in trained.run("status").out
    assert name in trained.run("deployments", "list").out
    assert name in trained.run("deployments", "list", "--provider", "together").out
    assert "it is deployed already" in trained.run("deployments", "create", model, "--yes").err
    assert len(trained.together.deployments) == 1
    answer = trained.run("chat", model, "-m", "hello")
    assert f"answer of team/{name}" in answer.out
    assert trained.run("deployments", "stop", name, "--json").document["deployment"]["state"] == "stopped"
    assert trained.together.deployments == {}
    assert trained.run("status", "--json").document["billed"] == []


def test_deployments_create_needs_an_answer(trained: TogetherCli) -> None:
    """Without a terminal nothing is created; nor with a price over the limit, nor with --dry-run."""
    model = model_of(trained)
    assert trained.run("deployments", "create", model).code == 2
    over = trained.run("deployments", "create", model, "--yes", "--max-hourly", "5")
    assert (over.code, "the limit is 5" in over.err) == (1, True)
    dry = trained.run("deployments", "create", model, "--dry-run")
    assert (dry.code, "1x B200" in dry.err) == (0, True)
    unknown = trained.run("deployments", "create", model, "--yes", "--hardware", "2x H100")
    assert (unknown.code, "1x H100" in unknown.err) == (2, True)
    assert (trained.together.endpoints, trained.together.deployments) == ({}, {})


def test_deployments_stop_of_one_that_is_gone(trained: TogetherCli) -> None:
    """Somebody stopped it in the console: it is not listed as billed any more."""
    model = model_of(trained)
    name = trained.run("deployments", "create", model, "--yes", "--json").document["deployment"]["name"]
    trained.together.deployments.clear()
    trained.together.endpoints.clear()
    assert trained.run("deployments", "stop", name).code == 0
    assert trained.run("status", "--json").document["billed"] == []
    assert trained.run("deployments", "stop", "ftpipe-000000000000").code == 2


def test_deployments_stop_without_the_model(trained: TogetherCli) -> None:
    """The model was deleted, and what serves it is billed still: it can be stopped by its name."""
    model = model_of(trained)
    name = trained.run("deployments", "create", model, "--yes", "--json").document["deployment"]["name"]
    assert trained.run("models", "delete", model, "--yes").code == 0
    assert f"ftpipe deployments stop {name}" in trained.run("jobs", "list").out
    assert trained.run("deployments", "stop", name).code == 0
    assert trained.together.deployments == {}
    assert trained.run("jobs", "list", "--json").document["billed"] == []


def test_deployments_stop_without_the_registry(trained: TogetherCli) -> None:
    """It was lost: the provider's list has the name."""
    model = model_of(trained)
    name = trained.run("deployments", "create", model, "--yes", "--json").document["deployment"]["name"]
    other = ("--registry", "other.db")
    assert name in trained.run("deployments", "list", "--provider", "together", *other).out
    assert trained.run("deployments", "stop", name, *other).code == 2
    assert trained.run("deployments", "stop", name, "--provider", "together", *other).code == 0
    assert trained.together.deployments == {}


def test_deployments_list_without_any(together: TogetherCli) -> None:
    """An empty list says how to make one."""
    assert "ftpipe deployments create" in together.run("deployments", "list").err


@pytest.mark.needs("zstandard")
def test_models_download_writes_the_adapter(trained: TogetherCli, tmp_path: Path) -> None:
    """Into a new folder; nothing is overwritten."""
    model, folder = model_of(trained), tmp_path / "adapter"
    files = trained.run("models", "download", model, str(folder), "--json").document["files"]
    assert files == {"adapter/adapter_config.json": 9, "adapter/adapter_model.safetensors": 1}
    assert (folder / "adapter" / "adapter_config.json").read_bytes() == b'{"r": 16}'
    again = trained.run("models", "download", model, str(folder))
    assert (again.code, "is not empty" in again.err) == (2, True)


def test_jobs_pause_is_refused(trained: TogetherCli) -> None:
    """With what can be done instead."""
    ran = trained.run("jobs", "pause")
    assert (ran.code, "ftpipe jobs cancel" in ran.err) == (5, True)


def test_doctor_says_what_was_not_tried(together: TogetherCli) -> None:
    """At the real host."""
    assert "not tried at the real host" in together.run("doctor").out


def test_train_leaves_out_of_the_upload_what_the_host_refuses(together: TogetherCli) -> None:
    """And says so; the model's lineage has the file as it was."""
    row = {"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}], "source": "crm"}
    path = chat_file(extra=json.dumps(row) + "\n")
    before = path.read_bytes()
    ran = together.run(*TRAIN, str(path), "--yes")
    assert ran.code == 0, ran.err
    assert "left out of the upload, because Together AI refuses it: 'source' (1 example)" in ran.err
    [content] = together.together.contents.values()
    assert content.count(b"\n") == 13 and b"source" not in content
    assert path.read_bytes() == before
    model = together.run("models", "list", "--json").document["models"][0]
    assert model["dataset_sha256"] == hashlib.sha256(before).hexdigest()
