"""``ftpipe evaluate``: arms from names, a verdict, a gate that decides the exit code, files that can be opened."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as Xml

from tests.cli.cli_runner import CliEnvironment, chat_file


def test_two_models_that_answer_alike_are_not_told_apart(world: CliEnvironment) -> None:
    """The mocked endpoint says the same whoever is asked; the page and the result are kept."""
    ran = world.run(
        "evaluate", "gpt-4.1", "--baseline", "gpt-4.1-mini", "--provider", "openai", "--data", str(chat_file("t.jsonl"))
    )
    assert ran.code == 0, ran.err
    assert "Not enough evidence that gpt-4.1 and gpt-4.1-mini differ" in ran.out
    kept = sorted(path.suffix for path in Path(".ftpipe/evaluations").iterdir())
    assert kept == [".html", ".json", ".ndjson"]


def test_the_document_holds_the_verdict_and_the_files(world: CliEnvironment) -> None:
    """``ftpipe.evaluate/1``; costs from the price rows."""
    ran = world.run(
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


def test_a_lost_gate_is_exit_code_one(world: CliEnvironment) -> None:
    """With the reason on stderr, and the report written all the same."""
    data = str(chat_file("t.jsonl"))
    asked = ("evaluate", "gpt-4.1", "--baseline", "gpt-4.1-mini", "--provider", "openai", "--data", data)
    lost = world.run(*asked, "--gate", "exact>=+0.03@95%", "--json")
    assert (lost.code, lost.document["ok"], lost.document["error"]["code"]) == (1, False, "gate_failed")
    assert world.run(*asked, "--gate", "exact>=-0.5", "--max-regressions", "0").code == 0
    assert world.run(*asked, "--gate", "exact>>1").code == 2


def test_a_second_run_asks_nothing_again(world: CliEnvironment) -> None:
    """The answers of the first are kept; ``--no-cache`` requests them again."""
    asked = (
        "evaluate", "gpt-4.1", "--baseline", "gpt-4.1-mini", "--provider", "openai",
        "--data", str(chat_file("t.jsonl")),
    )  # fmt: skip
    world.run(*asked)
    before = world.server.calls["chat"]
    world.run(*asked)
    assert world.server.calls["chat"] == before == 24
    world.run(*asked, "--no-cache")
    assert world.server.calls["chat"] == 48


def test_a_better_prompt_is_a_second_baseline(world: CliEnvironment) -> None:
    """Compared with the candidate as well, and passed over by the gate."""
    Path("better.txt").write_text("Answer briefly.")
    ran = world.run(
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


def test_wrong_words_are_refused_before_anything_is_asked(world: CliEnvironment) -> None:
    """No baseline, no file, no such metric, a schema that is none."""
    data = str(chat_file("t.jsonl"))
    assert world.run("evaluate", "unknown", "--data", data, "--provider", "openai").code == 2
    assert world.run("evaluate", "a", "--baseline", "b", "--data", "nowhere.jsonl").code == 2
    Path("schema.json").write_text("[]")
    asked = ("evaluate", "a", "--baseline", "b", "--provider", "openai", "--data", data)
    assert world.run(*asked, "--schema", "schema.json").code == 2
    assert world.run(*asked, "--metric", "exakt").code == 2
    assert world.server.calls["chat"] == 0
