"""``ftpipe evaluate``: arms, verdict, gates and their exit code, written files."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from tests.cli.cli_runner import CliEnvironment, chat_file


def test_evaluate_equal_answers_are_inconclusive(cli: CliEnvironment) -> None:
    """The fake gives all models the same answers; the page and the result are saved."""
    ran = cli.run(
        "evaluate", "gpt-4.1", "--baseline", "gpt-4.1-mini", "--provider", "openai", "--data", str(chat_file("t.jsonl"))
    )
    assert ran.code == 0, ran.err
    assert "Not enough evidence that gpt-4.1 and gpt-4.1-mini differ" in ran.out
    suffixes = sorted(path.suffix for path in Path(".ftpipe/evaluations").iterdir())
    assert suffixes == [".html", ".json", ".ndjson"]


def test_evaluate_json_has_the_verdict_and_the_files(cli: CliEnvironment) -> None:
    """``ftpipe.evaluate/1``; costs from the price rows."""
    ran = cli.run(
        "evaluate", "gpt-4.1", "--baseline", "gpt-4.1-mini", "--provider", "openai",
        "--data", str(chat_file("t.jsonl")),
        "--junit", "out/junit.xml", "--markdown", "out/report.md", "--promptfoo", "out/promptfooconfig.yaml",
        "--csv", "out/answers.csv", "--html", "out/page.html", "--json",
    )  # fmt: skip
    document = ran.document
    assert (document["schema"], document["ok"], document["items"]) == ("ftpipe.evaluate/1", True, 12)
    evaluation = document["evaluation"]
    assert evaluation["comparisons"][0]["verdict"] == "inconclusive"
    assert evaluation["arms"][1]["usage"]["cost_per_request"] > evaluation["arms"][0]["usage"]["cost_per_request"] > 0
    assert Xml.parse(document["files"]["junit"]).getroot().tag == "testsuites"
    assert len(json.loads(Path(document["files"]["promptfoo"]).read_text())["tests"]) == 12
    assert all(Path(path).stat().st_size for path in document["files"].values())


def test_evaluate_failed_gate_exits_with_one(cli: CliEnvironment) -> None:
    """With the reason on stderr, and the report written all the same."""
    data = str(chat_file("t.jsonl"))
    argv = ("evaluate", "gpt-4.1", "--baseline", "gpt-4.1-mini", "--provider", "openai", "--data", data)
    lost = cli.run(*argv, "--gate", "exact>=+0.03@95%", "--json")
    assert (lost.code, lost.document["ok"], lost.document["error"]["code"]) == (1, False, "gate_failed")
    assert cli.run(*argv, "--gate", "exact>=-0.5", "--max-regressions", "0").code == 0
    assert cli.run(*argv, "--gate", "exact>>1").code == 2


def test_evaluate_uses_cached_responses(cli: CliEnvironment) -> None:
    """``--no-cache`` sends the requests again."""
    argv = (
        "evaluate", "gpt-4.1", "--baseline", "gpt-4.1-mini", "--provider", "openai",
        "--data", str(chat_file("t.jsonl")),
    )  # fmt: skip
    cli.run(*argv)
    before = cli.server.calls["chat"]
    cli.run(*argv)
    assert cli.server.calls["chat"] == before == 24
    cli.run(*argv, "--no-cache")
    assert cli.server.calls["chat"] == 48


def test_evaluate_prompt_is_a_second_baseline(cli: CliEnvironment) -> None:
    """Compared with the candidate as well, and passed over by the gate."""
    Path("better.txt").write_text("Answer briefly.")
    ran = cli.run(
        "evaluate", "gpt-4.1", "--baseline", "gpt-4.1-mini", "--prompt", "better.txt", "--provider", "openai",
        "--data", str(chat_file("t.jsonl")), "--gate", "exact>=-1", "--json",
    )  # fmt: skip
    evaluation = ran.document["evaluation"]
    assert [arm["arm"]["name"] for arm in evaluation["arms"]] == [
        "gpt-4.1-mini",
        "gpt-4.1-mini + better.txt",
        "gpt-4.1",
    ]
    assert len(evaluation["gates"]) == 1


def test_evaluate_checks_its_options_before_requests(cli: CliEnvironment) -> None:
    """No baseline, no file, no such metric, a schema that is none."""
    data = str(chat_file("t.jsonl"))
    assert cli.run("evaluate", "unknown", "--data", data, "--provider", "openai").code == 2
    assert cli.run("evaluate", "a", "--baseline", "b", "--data", "nowhere.jsonl").code == 2
    Path("schema.json").write_text("[]")
    argv = ("evaluate", "a", "--baseline", "b", "--provider", "openai", "--data", data)
    assert cli.run(*argv, "--schema", "schema.json").code == 2
    assert cli.run(*argv, "--metric", "exakt").code == 2
    assert cli.server.calls["chat"] == 0


def test_evaluate_takes_max_tokens_from_the_expected_answers(cli: CliEnvironment) -> None:
    """Told, and overridden by the option; a judge may need longer answers."""
    argv = (
        "evaluate", "gpt-4.1", "--baseline", "gpt-4.1-mini", "--provider", "openai",
        "--data", str(chat_file("t.jsonl")),
    )  # fmt: skip
    estimated = cli.run(*argv, "--json")
    assert estimated.document["evaluation"]["sampling"]["max_tokens"] == 48
    assert "answers end after 48 tokens" in estimated.err
    given = cli.run(*argv, "--max-tokens", "7", "--json")
    assert given.document["evaluation"]["sampling"]["max_tokens"] == 7
    assert "answers end after" not in given.err
    judged = cli.run(*argv, "--judge", "gpt-4.1", "--json")
    assert judged.document["evaluation"]["sampling"]["max_tokens"] == 512


def test_evaluate_warns_of_items_that_were_trained(cli: CliEnvironment) -> None:
    """By the whole file's digest, and by prompts; on the terminal, in JSON and in every report with a verdict."""
    train = str(chat_file("train.jsonl"))
    model = cli.run("train", train, "--provider", "openai", "--yes", "--epochs", "2", "--json").document["model"]["id"]
    ran = cli.run("evaluate", model, "--data", train)
    warning = f"12 of 12 items are in the training data of {model}"
    assert warning in " ".join(ran.out.split())
    assert warning in ran.err
    assert "with items of the training data" in cli.run("models", "show", model).out

    data = str(chat_file("test.jsonl", first=10, rows=6))
    reports = ("--html", "page.html", "--markdown", "report.md", "--junit", "junit.xml")
    document = cli.run("evaluate", model, "--data", data, *reports, "--json").document
    assert document["evaluation"]["training_overlaps"] == [{"arm": model, "items": 2, "total": 6}]
    assert document["warnings"][0].startswith(f"Warning: 2 of 6 items are in the training data of {model}")
    assert all("2 of 6 items are in the training data" in Path(name).read_text() for name in reports[1::2])


@pytest.mark.slow
def test_evaluate_says_when_the_training_data_cannot_be_checked(cli: CliEnvironment) -> None:
    """The training file was changed; other items of it are not found any more, the same file still is."""
    train = chat_file("train.jsonl")
    ran = cli.run("train", str(train), "--provider", "openai", "--yes", "--epochs", "2", "--json")
    model = ran.document["model"]["id"]
    data = str(chat_file("test.jsonl", first=40))
    clean = cli.run("evaluate", model, "--data", data, "--json").document
    assert (clean["warnings"], clean["evaluation"]["training_overlaps"]) == ([], [])
    copy = train.rename("copy.jsonl")
    changed = cli.run("evaluate", model, "--data", data, "--json").document
    assert changed["evaluation"]["training_overlaps"] == [{"arm": model, "items": None, "total": 12}]
    assert "cannot be checked" in changed["warnings"][0]
    same = cli.run("evaluate", model, "--data", str(copy), "--json").document
    assert same["evaluation"]["training_overlaps"] == [{"arm": model, "items": 12, "total": 12}]
