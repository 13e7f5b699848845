"""``ftpipe models migrate``: one command from a model of OpenAI to another host, and back."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ftpipe.migration.recording import (
    ExpectedAnswer,
    RecordedPrompt,
    RecordingHeader,
    RecordingSampling,
    RecordingWriter,
    Sample,
    prompt_id,
)
from ftpipe.records import Model
from ftpipe.registry import open_registry
from ftpipe.registry.models import ModelRepository
from tests.cli.cli_runner import CliEnvironment, CommandResult
from tests.fakes.openai_client import NOW, FakeOpenAI, Fault, _Completions, status_error

OLD = "ft:gpt-4.1-mini-2025-04-14:org-test::1"
NEW = "ft:smollm2-135m-instruct:org-test::2"
ALIAS = "support-bot@production"
LABELS = ("late", "lost", "fine")


def rows(numbers: range) -> list[dict[str, Any]]:
    """Questions with their labels."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"Where is parcel {number}?"},
                {"role": "assistant", "content": LABELS[number % 3]},
            ]
        }
        for number in numbers
    ]


def write_rows(name: str, numbers: range) -> str:
    """A file with these questions."""
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows(numbers)), encoding="utf-8")
    return name


class LabellingModels(_Completions):
    """Every model answers correctly, except for some questions to the new one."""

    def __init__(self, server: FakeOpenAI) -> None:
        super().__init__(server)
        self.wrong: set[int] = set()
        self.requests: Counter[str] = Counter()

    def create(self, *, model: str, messages: list[dict[str, Any]], stream: bool = False, **_sampling: Any) -> Any:
        """One answer."""
        number = int("".join(filter(str.isdigit, messages[-1]["content"])))
        is_wrong = not model.startswith("ft:gpt") and number in self.wrong

        def execute() -> Any:
            self.requests[model] += 1
            return self._completion("other" if is_wrong else LABELS[number % 3])

        return self.server.serve("chat", execute)


class Move:
    """A model of OpenAI with an alias, and the command that moves it to this machine."""

    def __init__(self, cli: CliEnvironment) -> None:
        self.cli = cli
        self.models = LabellingModels(cli.server)
        cli.server.chat.completions = self.models
        data = write_rows("train.jsonl", range(900, 912))
        assert cli.run("train", data, "--provider", "openai", "--yes", "--epochs", "3").code == 0
        assert cli.run("models", "alias", ALIAS, OLD).code == 0
        self.held_out = write_rows("held-out.jsonl", range(80))

    def run(self, *options: str, to: str = "local", data: bool = True) -> CommandResult:
        """Move the model."""
        compared = ("--held-out", self.held_out) if data else ()
        return self.cli.run("models", "migrate", OLD, "--to", to, "--yes", *compared, *options)

    @property
    def aliases(self) -> dict[str, str]:
        """Alias → model."""
        registry = open_registry()
        try:
            return registry.models.aliases()
        finally:
            registry.close()


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for on the disk: no test here cuts the power, and each answer is one line of the cache."""
    monkeypatch.setattr(os, "fsync", lambda _handle: None)


@pytest.fixture
def move(cli: CliEnvironment) -> Move:
    """A trained model that can be moved."""
    return Move(cli)


def test_plan_states_data_base_hyperparameters_cost_and_gate(move: Move) -> None:
    """And a dry run sends nothing to the new host."""
    before = Counter(move.cli.server.calls)
    ran = move.run("--dry-run")
    assert ran.code == 0
    for text in (
        "on this machine since it was trained: supervised, 12 examples",
        "→  smollm2-135m-instruct",
        "a judgement by size and price, not measured",
        "learning_rate_multiplier  1.8 → 1.8",
        "80 prompts to the new model, 80 prompts to the old one, up to 0.0",
        "the aliases move only if the new model is not worse by more than 5 points",
    ):
        assert text in ran.err, text
    assert move.cli.server.calls == before
    assert move.aliases == {ALIAS: OLD}


def test_model_is_moved_and_its_aliases_with_it(move: Move) -> None:
    ran = move.run("--alias", "support-bot@new", "--json")
    assert ran.code == 0, ran.err
    document = ran.document
    assert document["migration"]["state"] == "moved"
    [comparison] = document["migration"]["comparisons"]
    assert (comparison["items"], comparison["gate"]["passed"]) == (80, True)
    assert move.aliases == {ALIAS: NEW, "support-bot@new": NEW, OLD: NEW}
    assert move.models.requests == {OLD: 80, NEW: 80}
    assert all(Path(page).is_file() for page in document["reports"])


@pytest.mark.slow
def test_lineage_crosses_hosts(move: Move) -> None:
    move.run()
    assert f"replaces    {OLD} at openai" in move.cli.run("models", "show", NEW).out
    assert move.cli.run("models", "show", OLD, "--json").document["model"]["provider"] == "openai"


@pytest.mark.slow
def test_worse_model_moves_no_alias(move: Move) -> None:
    move.models.wrong = set(range(0, 80, 5))
    ran = move.run()
    assert ran.code == 1
    assert "gate failed" in ran.out and "no alias was moved" in ran.err
    assert move.aliases == {ALIAS: OLD}
    assert move.cli.run("models", "show", NEW).code == 0


def test_rollback_moves_every_alias_back(move: Move) -> None:
    move.run()
    ran = move.cli.run("models", "migrate", "--rollback", OLD)
    assert ran.code == 0
    assert f"{ALIAS} → {OLD}" in ran.out
    assert move.aliases == {ALIAS: OLD, OLD: OLD}
    assert move.cli.run("models", "migrate", "--rollback", NEW).code == 0
    history = move.cli.run("models", "alias", ALIAS, "--json").document["history"]
    assert [one["to_model"] for one in history] == [OLD, NEW, OLD]


@pytest.mark.slow
def test_rollback_leaves_an_alias_that_somebody_moved_since(move: Move) -> None:
    move.run("--alias", "other")
    move.cli.run("models", "alias", "other", OLD)
    move.cli.run("models", "migrate", "--rollback", OLD)
    history = move.cli.run("models", "alias", "other", "--json").document["history"]
    assert [one["to_model"] for one in history] == [NEW, OLD]


@pytest.mark.slow
def test_rollback_without_migration_names_the_command(move: Move) -> None:
    ran = move.cli.run("models", "migrate", "--rollback", OLD)
    assert ran.code == 2
    assert "there is no migration" in ran.err


@pytest.mark.slow
def test_repeated_command_pays_nothing(move: Move) -> None:
    move.run()
    jobs, answers = move.cli.paid_jobs, move.cli.server.calls["chat"]
    assert move.run().code == 0
    assert (move.cli.paid_jobs, move.cli.server.calls["chat"]) == (jobs, answers)


KILLS = [
    ("files.list", 1, False),
    ("jobs.create", 1, False),
    ("jobs.create", 1, True),
    ("jobs.retrieve", 2, True),
    ("chat", 1, True),
    ("chat", 100, True),
]
"""Call, how many-th, and whether it was executed before the kill."""


@pytest.mark.slow
@pytest.mark.parametrize(("call", "number", "executed"), KILLS)
def test_killed_migration_continues_and_pays_nothing_twice(move: Move, call: str, number: int, executed: bool) -> None:
    """The interrupted request may be sent once more; no other one is."""
    faults: list[Fault | None] = [None] * (number - 1)
    move.cli.server.fail_next(call, *faults, Fault(error=KeyboardInterrupt(), executed=executed))  # type: ignore[arg-type]  # a kill
    assert move.run().code != 0
    assert move.aliases == {ALIAS: OLD}
    assert move.run().code == 0
    assert move.aliases == {ALIAS: NEW, OLD: NEW}
    assert len(move.cli.server.stored_jobs) == 2
    assert move.cli.server.calls["chat"] - 160 <= 1 + 4


@pytest.mark.slow
def test_kill_between_two_aliases_leaves_none_behind(move: Move, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest moves with the next call, and a rollback brings back all of them."""
    set_alias = ModelRepository.set_alias
    calls = itertools.count()

    def interrupted(self: ModelRepository, alias: str, model_id: str, *, reason: str = "") -> Model:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return set_alias(self, alias, model_id, reason=reason)

    monkeypatch.setattr(ModelRepository, "set_alias", interrupted)
    assert move.run("--alias", "support-bot@new").code != 0
    assert move.aliases == {ALIAS: NEW}
    assert move.run("--alias", "support-bot@new").code == 0
    assert move.aliases == {ALIAS: NEW, "support-bot@new": NEW, OLD: NEW}
    assert move.cli.run("models", "migrate", "--rollback", OLD).code == 0
    assert set(move.aliases.values()) == {OLD}


@pytest.mark.slow
def test_data_is_downloaded_if_it_is_not_here_any_more(move: Move) -> None:
    Path("train.jsonl").unlink()
    ran = move.run("--json")
    assert ran.code == 0, ran.err
    migration = ran.document["migration"]
    assert migration["data_source"] == "provider"
    assert Path(migration["data"]).read_text() == "".join(json.dumps(row) + "\n" for row in rows(range(900, 912)))


@pytest.mark.slow
def test_deleted_data_is_named_with_what_can_be_done(move: Move) -> None:
    Path("train.jsonl").unlink()
    move.cli.server.fail_next("files.content", Fault(status_error(404, message="No such File object")))
    ran = move.run()
    assert ran.code == 2
    assert "was deleted at OpenAI" in ran.err and "--data" in ran.err
    other = write_rows("other.jsonl", range(900, 920))
    assert move.run("--data", other, "--json").document["migration"]["data_source"] == "file"


@pytest.mark.slow
def test_model_that_the_registry_does_not_know_is_adopted(cli: CliEnvironment) -> None:
    models = LabellingModels(cli.server)
    cli.server.chat.completions = models
    cli.server.statuses = ["succeeded"]
    data = write_rows("train.jsonl", range(900, 912))
    cli.server.seed_job(status="succeeded", fine_tuned_model=OLD, created_at=NOW)
    held_out = write_rows("held-out.jsonl", range(80))
    ran = cli.run("models", "migrate", OLD, "--to", "local", "--yes", "--data", data, "--held-out", held_out)
    assert ran.code == 0, ran.err
    assert cli.run("models", "show", OLD, "--json").document["model"]["job_id"] == "ftjob-1"
    unknown = cli.run("models", "migrate", "ft:gpt-4.1:nobody::9", "--to", "local", "--held-out", held_out)
    assert unknown.code == 2 and "models inventory" in unknown.err


def recorded(name: str) -> str:
    """Answers of the old model: to its training data, and to held-out prompts."""
    header = RecordingHeader(
        model=OLD, provider="openai", endpoint="https://api.openai.com/v1", sampling=RecordingSampling(), created_at=NOW
    )
    writer = RecordingWriter(Path(name), header)
    for number in (*range(80), *range(900, 912)):
        question, answer = rows(range(number, number + 1))[0]["messages"]
        is_seen = number >= 900
        prompt = RecordedPrompt(
            id=prompt_id([question]),
            origin="training" if is_seen else "held-out",
            seen=is_seen,
            messages=(question,),
            expected=ExpectedAnswer(content=answer["content"]),
            samples=(Sample(content=answer["content"]),),
        )
        writer.append(prompt)
    return name


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--recording", "--distill"])
def test_recorded_answers_need_no_old_model(move: Move, option: str) -> None:
    """Compared on the held-out ones; with ``--distill`` the others are what is trained on."""
    ran = move.run(option, recorded("answers.jsonl"), "--json", data=False)
    assert ran.code == 0, ran.err
    migration = ran.document["migration"]
    assert migration["data_source"] == ("distilled" if option == "--distill" else "registry")
    assert [one["items"] for one in migration["comparisons"]] == [80]
    assert move.models.requests == {NEW: 80}
    if option == "--distill":
        assert len(Path(migration["data"]).read_text().splitlines()) == 12


@pytest.mark.slow
def test_nothing_to_compare_on_is_refused_before_anything_is_paid(move: Move) -> None:
    ran = move.run(data=False)
    assert ran.code == 2
    assert "ftpipe models record" in ran.err
    assert move.cli.paid_jobs == 1


@pytest.mark.slow
def test_held_out_data_of_the_training_is_refused(move: Move) -> None:
    ran = move.cli.run("models", "migrate", OLD, "--to", "local", "--yes", "--held-out", "train.jsonl")
    assert ran.code == 2
    assert "no prompt is left to compare" in ran.err


@pytest.mark.slow
def test_budget_covers_job_and_answers(move: Move) -> None:
    ran = move.run("--max-cost", "0.000001")
    assert ran.code != 0
    assert "over the limit" in ran.err
    assert move.cli.paid_jobs == 1


def test_money_needs_a_confirmation(move: Move) -> None:
    """The job is free, the answers of the old model are not."""
    ran = move.cli.run("models", "migrate", OLD, "--to", "local", "--held-out", move.held_out)
    assert ran.code == 2
    assert "--yes" in ran.err
    assert move.cli.paid_jobs == 1 and not move.models.requests


def test_same_host_needs_another_base(move: Move) -> None:
    ran = move.run(to="openai")
    assert ran.code == 2
    assert "is at OpenAI already" in ran.err


def test_host_has_to_be_named(move: Move) -> None:
    ran = move.cli.run("models", "migrate", OLD)
    assert ran.code == 2
    assert "--to together" in ran.err
