"""``ftpipe advise``: by flags, from a file, from a dataset; every figure with its row."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pexpect
import pytest

from tests.cli.cli_runner import CliEnvironment, chat_file

WORKED = (
    "advise", "--base", "gpt-4o-mini", "--examples", "1000", "--tokens-per-example", "500", "--prompt-tokens", "2000",
    "--evaluation", "--no-lacks-knowledge", "--no-better-prompt-is-enough", "--wrong-behavior",
)  # fmt: skip


def test_the_worked_case_costs_one_dollar_fifty_an_epoch(world: CliEnvironment) -> None:
    """1,000 examples of 500 tokens on gpt-4o-mini, with the price row, its day and its source."""
    advice = world.run(*WORKED, "--json").document["advice"]
    assert (advice["epoch_cost"]["amount"], advice["epoch_cost"]["currency"]) == (1.5, "USD")
    [row] = [row for row in advice["epoch_cost"]["rows"]]
    assert (row["training"], bool(row["as_of"]), bool(row["source"])) == (3.0, True, True)


def test_the_text_says_road_reason_numbers_and_sources(world: CliEnvironment) -> None:
    """One screen."""
    ran = world.run(*WORKED)
    assert ran.code == 0
    for part in (
        "Recommendation: local LoRA fine-tuning",
        "One epoch of training: 1.50 USD",
        "never",
        "What would change",
        "Prices",
    ):
        assert part in ran.out


def test_the_document_has_its_schema_and_nothing_else_on_stdout(world: CliEnvironment) -> None:
    """``ftpipe.advise/1`` with the inputs of the advice."""
    document = world.run(*WORKED, "--json").document
    assert (document["schema"], document["ok"]) == ("ftpipe.advise/1", True)
    assert document["inputs"]["clean_examples"] == 1000
    assert document["advice"]["break_even"][0]["name"] == "hosted"


def test_a_dataset_is_read_for_examples_and_tokens(world: CliEnvironment) -> None:
    """No number has to be typed."""
    path = chat_file(rows=60)
    inputs = world.run("advise", str(path), "--base", "gpt-4.1-mini", "--json").document["inputs"]
    assert inputs["clean_examples"] == 60
    assert inputs["training_tokens"] > 600


def test_answers_come_from_a_file_and_flags_win(world: CliEnvironment) -> None:
    """The file's keys are the flags' names."""
    Path("case.toml").write_text("examples = 20\nlacks_knowledge = false\nends = 2027-01-14\nprivacy = true\n")
    few = world.run("advise", "--file", "case.toml", "--json").document
    assert few["advice"]["recommendation"] == "prompting"
    assert few["inputs"]["shutdown_date"] == "2027-01-14"
    many = world.run("advise", "--file", "case.toml", "--examples", "800", "--json").document
    assert many["advice"]["recommendation"] == "local LoRA fine-tuning"


@pytest.mark.parametrize(
    ("text", "hint"), [("exampels = 3", "did you mean examples?"), ("= 3", "TOML"), ('examples = "many"', "--help")]
)
def test_a_wrong_file_is_refused_with_the_way_out(world: CliEnvironment, text: str, hint: str) -> None:
    """Unknown key, no TOML, wrong kind."""
    Path("case.toml").write_text(text)
    ran = world.run("advise", "--file", "case.toml")
    assert ran.code == 2
    assert hint in ran.err


def test_prices_given_by_hand_are_used_and_named(world: CliEnvironment) -> None:
    """The worked table's first row, typed."""
    ran = world.run(
        "advise", "--base", "mine", "--examples", "100", "--tokens-per-example", "10000", "--prompt-tokens", "2000",
        "--base-price", "0.40,0.10,1.60", "--tuned-price", "0.80,0.20,3.20", "--train-price", "5", "--no-caching",
        "--json",
    )  # fmt: skip
    advice = ran.document["advice"]
    assert advice["break_even"][0]["result"]["calls"] == 37_500
    assert {row["source"] for row in advice["prices"]} == {"command line", "your own machine"}
    assert world.run("advise", "--base", "x", "--base-price", "1").code == 2
    assert world.run("advise", "--ends", "soon").code == 2


def test_nothing_known_is_answered_with_what_to_find_out(world: CliEnvironment) -> None:
    """And asks nobody where there is no terminal."""
    ran = world.run("advise")
    assert ran.code == 0
    assert "Build a test set" in ran.out


def test_a_conversation_asks_until_the_answer_is_clear(tmp_path: Path) -> None:
    """On a terminal: four answers lead to retrieval without another question; a long talk ends in numbers."""
    short = talk(["y", "y", "n"])
    assert "Recommendation: retrieval" in short
    assert "Must the data stay" not in short
    long = talk(["y", "n", "y", "n", "1000", "y", "n", "n", "y", "2000", "", "gpt-4.1", "gpt-4o-mini", "500"])
    assert "Recommendation: local LoRA fine-tuning" in long
    assert "One epoch of training: 1.50 USD" in long


def talk(answers: list[str]) -> str:
    """Everything that a terminal showed."""
    child = pexpect.spawn(
        sys.executable, ["-m", "ftpipe", "advise"], timeout=60, encoding="utf-8", dimensions=(80, 200), env=os.environ
    )
    shown = ""
    for answer in answers:
        child.expect("not known]: ")
        shown += str(child.before)
        child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    return shown + str(child.before)
