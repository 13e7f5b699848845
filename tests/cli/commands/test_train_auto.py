"""``ftpipe train --auto``: plan, budget, the best model under an alias, and held-out rows that choose nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.cli_runner import CliEnvironment, chat_file
from tests.fakes.epoch_trainer import EpochTrainer


@pytest.fixture
def trainer(cli: CliEnvironment) -> EpochTrainer:
    """An endpoint whose jobs report a validation loss after each epoch."""
    cli.server = EpochTrainer()
    return cli.server


def test_auto_names_the_best_model_and_continues_when_it_is_repeated(
    cli: CliEnvironment, trainer: EpochTrainer
) -> None:
    """By validation loss; the test file compares only the best model with the base."""
    train, valid, test = (
        str(chat_file(f"{name}.jsonl", first=first)) for name, first in (("desk", 0), ("valid", 40), ("test", 80))
    )
    argv = (
        "train", train, "--validation", valid, "--provider", "openai", "--yes", "--auto", "--epochs", "2",
        "--evaluate", test, "--json",
    )  # fmt: skip
    ran = cli.run(*argv)
    assert ran.code == 0, ran.err
    sweep, search = ran.document["sweep"], ran.document["search"]
    assert (sweep["compared_by"], sweep["alias"]) == ("validation loss", "desk@best")
    assert sweep["trials"][0]["point"]["learning_rate_multiplier"] == 0.5
    assert (search["continues_jobs"], search["not_started"]) == (False, [])
    assert cli.run("models", "show", "desk@best", "--json").document["model"]["id"] == sweep["best_model"]
    assert [arm["arm"]["name"] for arm in ran.document["evaluation"]["arms"]][1:] == [sweep["best_model"]]
    jobs = cli.paid_jobs
    again = cli.run(*argv[:-1])
    assert f"best by validation loss: desk@best → {sweep['best_model']}" in again.out
    assert cli.paid_jobs == jobs


def test_auto_without_validation_file_splits_the_data(cli: CliEnvironment, trainer: EpochTrainer) -> None:
    """What compares the trials is not trained; the user's folder has no new file."""
    train = chat_file("train.jsonl", rows=30)
    ran = cli.run("train", str(train), "--provider", "openai", "--yes", "--auto", "--epochs", "1", "--alias", "a@b")
    assert ran.code == 0, ran.err
    assert "3 of 30 rows of train.jsonl are not trained" in ran.err
    files = [content.decode() for content in trainer.contents.values()]
    assert sorted(len(content.splitlines()) for content in files) == [3, 27]
    assert sorted("\n".join(files).split("\n")) == sorted(f"{train.read_text(encoding='utf-8')}\n".split("\n"))
    assert [path.name for path in Path().glob("*.jsonl")] == ["train.jsonl"]


def test_auto_names_the_broken_line_of_the_users_file(cli: CliEnvironment, trainer: EpochTrainer) -> None:
    """And not that of a file that was split off."""
    train = chat_file("train.jsonl", rows=30)
    rows = train.read_text(encoding="utf-8").splitlines()
    rows[24] = rows[24].replace('"assistant"', '"narrator"')
    train.write_text("\n".join(rows), encoding="utf-8")
    ran = cli.run("train", str(train), "--provider", "openai", "--yes", "--auto", "--epochs", "1")
    assert (ran.code, ".ftpipe" in ran.out + ran.err) == (1, False)
    assert "train.jsonl: 2 errors" in ran.err
    assert "line 25" in ran.out
    assert not trainer.calls


def test_auto_dry_run_says_what_is_tried_and_what_it_costs(cli: CliEnvironment, trainer: EpochTrainer) -> None:
    data = str(chat_file("train.jsonl", rows=40))
    paid = cli.run("train", data, "--provider", "openai", "--auto", "--dry-run")
    assert paid.code == 0, paid.err
    assert "search with 6 trials, up to 0." in paid.err
    assert "starts again with more epochs: OpenAI is not asked to pause jobs" in paid.err
    assert "learning_rate_multiplier=0.5 epochs=6" in paid.err
    free = cli.run("train", data, "--provider", "local", "--auto", "--dry-run", "--json")
    assert "continues the jobs of the last one" in free.err
    assert "8 trials, free" in free.err
    document = free.document
    assert document["search"]["rounds"] == [
        {"trials": 8, "epochs": 2}, {"trials": 4, "epochs": 3}, {"trials": 2, "epochs": 6},
    ]  # fmt: skip
    assert document["trials"][0] == "learning_rate_multiplier=1 lora_rank=16 epochs=3"
    assert cli.paid_jobs == 0


def test_auto_searches_only_what_is_not_given(cli: CliEnvironment, trainer: EpochTrainer) -> None:
    """``--sweep`` names other values; a value that is set is kept."""
    data = str(chat_file("train.jsonl", rows=40))
    argv = ("train", data, "--provider", "local", "--auto", "--dry-run", "--json")
    ran = cli.run(*argv, "--epochs", "2", "--learning-rate", "0.001", "--sweep", "lora_rank=4,64")
    assert ran.document["trials"] == ["lora_rank=4", "lora_rank=64"]
    nothing = cli.run(*argv, "--epochs", "2", "--learning-rate", "0.001", "--lora-rank", "8")
    assert (nothing.code, "nothing to search" in json.loads(nothing.out)["error"]["message"]) == (2, True)


def test_auto_refuses_budgets_that_are_too_small_before_it_asks(cli: CliEnvironment, trainer: EpochTrainer) -> None:
    data = str(chat_file("train.jsonl", rows=40))
    money = cli.run("train", data, "--provider", "openai", "--yes", "--auto", "--max-cost", "0.000001")
    assert (money.code, "smallest search may cost" in money.err) == (1, True)
    time = cli.run("train", data, "--provider", "local", "--auto", "--budget-minutes", "0.001")
    assert (time.code, "smallest search takes about" in time.err) == (2, True)
    assert cli.run("train", data, "--provider", "openai", "--auto").code == 2
    assert cli.paid_jobs == 0


@pytest.mark.parametrize(
    "extra",
    [("--budget-minutes", "5"), ("--auto", "--detach"), ("--auto", "--force-new"), ("--auto", "--timeout", "5")],
)
def test_auto_refuses_options_that_contradict_it(cli: CliEnvironment, extra: tuple[str, ...]) -> None:
    ran = cli.run("train", str(chat_file()), *extra)
    assert (ran.code, "next:" in ran.err) == (2, True)
    assert cli.paid_jobs == 0


@pytest.mark.parametrize("extra", [("--auto",), ("--sweep", "epochs=1,2")])
def test_reinforcement_has_no_loss_to_compare_trials_by(cli: CliEnvironment, extra: tuple[str, ...]) -> None:
    """It is said before anything is sent, and not when all trials have been trained."""
    rows = [{"messages": [{"role": "user", "content": f"word {number}"}], "answer": "a"} for number in range(40)]
    for name, part in (("train.jsonl", rows[:30]), ("valid.jsonl", rows[30:])):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    check = {"type": "string_check", "name": "a", "input": "{{sample.output_text}}", "operation": "eq"}
    Path("grader.json").write_text(json.dumps({**check, "reference": "{{item.answer}}"}), encoding="utf-8")
    ran = cli.run(
        *("train", "train.jsonl", "--validation", "valid.jsonl", "--provider", "local"),
        *("--method", "reinforcement", "--grader", "grader.json", "--dry-run", *extra),
    )
    assert (ran.code, "validation loss" in ran.err, "--evaluate FILE" in ran.err) == (2, True, True), ran.err
