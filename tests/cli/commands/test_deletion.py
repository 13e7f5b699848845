"""``ftpipe models delete`` and ``ftpipe jobs delete``: asked by name, at the provider first, then in the registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.cli_runner import CliEnvironment, chat_file
from tests.fakes.openai_client import Fault, status_error

HOSTED = ("--provider", "openai", "--yes", "--epochs", "3")
MODEL = "ft:gpt-4.1-mini-2025-04-14:org-test::1"


@pytest.fixture
def trained(cli: CliEnvironment) -> CliEnvironment:
    """A command line for which one model was trained."""
    assert cli.run("train", str(chat_file()), *HOSTED).code == 0
    return cli


def models(cli: CliEnvironment) -> list[str]:
    """Names of the registered models."""
    return [model["id"] for model in cli.run("models", "list", "--json").document["models"]]


def test_models_delete_needs_an_answer(trained: CliEnvironment) -> None:
    """Without a terminal nothing is deleted."""
    ran = trained.run("models", "delete", MODEL)
    assert ran.code == 2
    assert "this deletes something" in ran.err
    assert "--yes" in ran.err
    assert (models(trained), trained.server.calls["models.delete"]) == ([MODEL], 0)


def test_models_delete_question_names_model_and_host(trained: CliEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no is an answer."""
    questions: list[str] = []

    def confirm(question: str, **_: object) -> bool:
        questions.append(question)
        return False

    monkeypatch.setattr("ftpipe.cli.context.CliContext.can_ask", True)
    monkeypatch.setattr("click.confirm", confirm)
    ran = trained.run("models", "delete", MODEL)
    assert questions == [f"Delete {MODEL} and 2 checkpoints at api.openai.com for good?"]
    assert (ran.code, "nothing was deleted" in ran.err) == (2, True)
    assert (models(trained), trained.server.calls["models.delete"]) == ([MODEL], 0)


def test_models_delete_removes_it_at_provider_and_in_registry(trained: CliEnvironment) -> None:
    """The same `train` then trains a new model, and only then."""
    document = trained.run("models", "delete", MODEL, "--yes", "--json").document
    assert (document["model"], document["deleted_at_provider"]) == (MODEL, True)
    assert (models(trained), trained.server.calls["models.delete"]) == ([], 1)
    assert trained.run("status").code == 2
    assert trained.run("models", "verify").code == 0
    trained.run("train", str(chat_file()), *HOSTED)
    trained.run("train", str(chat_file()), *HOSTED)
    assert (len(models(trained)), trained.paid_jobs) == (1, 2)


def test_models_delete_that_provider_refuses_changes_nothing(trained: CliEnvironment) -> None:
    """What is gone at the provider is no error."""
    trained.server.fail_next("models.delete", Fault(status_error(403)), Fault(status_error(404)))
    assert trained.run("models", "delete", MODEL, "--yes").code == 4
    assert models(trained) == [MODEL]
    ran = trained.run("models", "delete", MODEL, "--yes")
    assert (ran.code, "openai did not have it any more" in ran.err) == (0, True)
    assert models(trained) == []


def test_models_delete_keeps_what_an_alias_needs(trained: CliEnvironment) -> None:
    """Unless it is forced; the history of the alias says what happened."""
    trained.run("models", "alias", "bot@live", MODEL)
    ran = trained.run("models", "delete", "bot@live", "--yes")
    assert (ran.code, "bot@live points to" in ran.err) == (2, True)
    assert models(trained) == [MODEL]
    assert trained.run("models", "delete", "bot@live", "--yes", "--force").code == 0
    history = trained.run("models", "alias", "bot@live", "--json").document["history"]
    assert [move["reason"] for move in history] == ["", "the model was deleted"]


def test_models_delete_by_checkpoint_is_refused(trained: CliEnvironment) -> None:
    """It would delete more than was named."""
    checkpoint = trained.run("models", "show", MODEL, "--json").document["model"]["checkpoints"][0]["model"]
    ran = trained.run("models", "delete", checkpoint, "--yes")
    assert (ran.code, f"{checkpoint} is a checkpoint of {MODEL}" in ran.err) == (2, True)
    assert models(trained) == [MODEL]


def test_models_delete_at_another_address_is_refused(trained: CliEnvironment) -> None:
    """The endpoint there may have a model of the same name."""
    Path("ftpipe.toml").write_text('[providers.openai]\nbase_url = "http://127.0.0.1:1/v1"\n')
    ran = trained.run("models", "delete", MODEL, "--yes")
    assert (ran.code, "openai now leads to http://127.0.0.1:1/v1" in ran.err) == (2, True)
    assert trained.server.calls["models.delete"] == 0
    assert trained.run("models", "delete", MODEL, "--yes", "--only-registry").code == 0
    assert (models(trained), trained.server.calls["models.delete"]) == ([], 0)


def test_jobs_delete_needs_an_end_and_no_model(trained: CliEnvironment) -> None:
    """A job that runs is cancelled first; a model is deleted first."""
    ran = trained.run("jobs", "delete", "ftjob-1", "--yes")
    assert (ran.code, f"`ftpipe models delete {MODEL}`" in ran.err) == (2, True)
    trained.server.statuses = ["running"]
    trained.run("train", str(chat_file("b.jsonl", first=40)), *HOSTED, "--detach")
    ran = trained.run("jobs", "delete", "ftjob-2", "--yes")
    assert (ran.code, "`ftpipe jobs cancel ftjob-2`" in ran.err) == (2, True)
    trained.run("jobs", "cancel", "ftjob-2")
    ran = trained.run("jobs", "delete", "ftjob-2", "--yes")
    assert (ran.code, "openai keeps the job" in ran.err) == (0, True)
    assert [job["id"] for job in trained.run("jobs", "list", "--json").document["jobs"]] == ["ftjob-1"]
    assert trained.run("jobs", "delete", "ftjob-2", "--yes").code == 2
    assert trained.run("models", "verify").code == 0


def test_jobs_delete_at_the_embedded_server(cli: CliEnvironment) -> None:
    """It is the only one that deletes jobs."""
    cli.server.statuses = ["failed"]
    cli.run("train", str(chat_file()))
    document = cli.run("jobs", "delete", "ftjob-1", "--yes", "--json").document
    assert document["deleted_at_provider"] is True
    assert cli.server.calls["jobs.delete"] == 1
    assert cli.run("jobs", "list", "--json").document["jobs"] == []
