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


def test_advise_worked_example_cost_per_epoch(cli: CliEnvironment) -> None:
    """1,000 examples of 500 tokens on gpt-4o-mini, with the price row, its day and its source."""
    advice = cli.run(*WORKED, "--json").document["advice"]
    assert (advice["epoch_cost"]["amount"], advice["epoch_cost"]["currency"]) == (1.5, "USD")
    [row] = [row for row in advice["epoch_cost"]["rows"]]
    assert (row["training"], bool(row["as_of"]), bool(row["source"])) == (3.0, True, True)


def test_advise_text_has_reason_numbers_and_sources(cli: CliEnvironment) -> None:
    """One screen."""
    ran = cli.run(*WORKED)
    assert ran.code == 0
    for part in (
        "Recommendation: local LoRA fine-tuning",
        "One epoch of training: 1.50 USD",
        "never",
        "What would change",
        "Prices",
    ):
        assert part in ran.out


def test_advise_json_has_schema_and_inputs(cli: CliEnvironment) -> None:
    """``ftpipe.advise/1`` with the inputs of the advice."""
    document = cli.run(*WORKED, "--json").document
    assert (document["schema"], document["ok"]) == ("ftpipe.advise/1", True)
    assert document["inputs"]["clean_examples"] == 1000
    assert document["advice"]["break_even"][0]["name"] == "hosted"


def test_advise_reads_examples_and_tokens_from_data(cli: CliEnvironment) -> None:
    """No number has to be typed."""
    path = chat_file(rows=60)
    inputs = cli.run("advise", str(path), "--base", "gpt-4.1-mini", "--json").document["inputs"]
    assert inputs["clean_examples"] == 60
    assert inputs["training_tokens"] > 600


def test_advise_file_is_overridden_by_options(cli: CliEnvironment) -> None:
    """The file's keys are the flags' names."""
    Path("case.toml").write_text("examples = 20\nlacks_knowledge = false\nends = 2027-01-14\nprivacy = true\n")
    few = cli.run("advise", "--file", "case.toml", "--json").document
    assert few["advice"]["recommendation"] == "prompting"
    assert few["inputs"]["shutdown_date"] == "2027-01-14"
    many = cli.run("advise", "--file", "case.toml", "--examples", "800", "--json").document
    assert many["advice"]["recommendation"] == "local LoRA fine-tuning"


@pytest.mark.parametrize(
    ("text", "hint"), [("exampels = 3", "did you mean examples?"), ("= 3", "TOML"), ('examples = "many"', "--help")]
)
def test_advise_wrong_file_shows_a_hint(cli: CliEnvironment, text: str, hint: str) -> None:
    """Unknown key, no TOML, wrong kind."""
    Path("case.toml").write_text(text)
    ran = cli.run("advise", "--file", "case.toml")
    assert ran.code == 2
    assert hint in ran.err


def test_advise_uses_prices_from_options(cli: CliEnvironment) -> None:
    """The worked table's first row, typed."""
    ran = cli.run(
        "advise", "--base", "mine", "--examples", "100", "--tokens-per-example", "10000", "--prompt-tokens", "2000",
        "--base-price", "0.40,0.10,1.60", "--tuned-price", "0.80,0.20,3.20", "--train-price", "5", "--no-caching",
        "--json",
    )  # fmt: skip
    advice = ran.document["advice"]
    assert advice["break_even"][0]["result"]["calls"] == 37_500
    assert {row["source"] for row in advice["prices"]} == {"command line", "your own machine"}
    assert cli.run("advise", "--base", "x", "--base-price", "1").code == 2
    assert cli.run("advise", "--ends", "soon").code == 2


@pytest.mark.parametrize(
    "options", [(), ("--base", "gpt-4.1"), ("--provider", "azure"), ("train.jsonl",), ("--evaluation",)]
)
def test_advise_without_answers_says_what_it_must_know(options: tuple[str, ...], cli: CliEnvironment) -> None:
    """Also in JSON, and with a model or data alone; it asks nobody where there is no terminal."""
    chat_file(rows=60)
    ran = cli.run("advise", *options)
    assert ran.code == 0
    assert ran.out.startswith("Too little is known for a recommendation. What must be known:")
    assert "--lacks-knowledge or --no-lacks-knowledge" in ran.out
    assert ("Build a test set" in ran.out) is ("--evaluation" not in options)
    assert "Recommendation:" not in ran.out and "decided" not in ran.out
    advice = cli.run("advise", *options, "--json").document["advice"]
    assert advice["recommendation"] is None
    assert "lacks_knowledge" in [one["field"] for one in advice["missing"]]


@pytest.mark.parametrize("epochs", ["0", "51"])
def test_advise_epochs_out_of_range_name_the_option(cli: CliEnvironment, epochs: str) -> None:
    """As every option with a range."""
    ran = cli.run("advise", "--epochs", epochs)
    assert ran.code == 2
    assert "'--epochs': " in ran.err
    assert "1<=x<=50" in ran.err


def test_advise_local_training_pays_off_from_the_first_call(cli: CliEnvironment) -> None:
    """Without a one-time cost and hosting it does not depend on the traffic."""
    cases = cli.run(*WORKED, "--json").document["advice"]["break_even"]
    [local] = [case["result"] for case in cases if case["name"] == "local"]
    assert (local["calls"], local["outcome"]) == (0, "pays off")


def test_advise_interview_stops_when_the_advice_is_clear(tmp_path: Path) -> None:
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
