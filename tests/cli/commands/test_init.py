"""``ftpipe init``: a project to start from, and nothing overwritten."""

from __future__ import annotations

from pathlib import Path

from tests.cli.cli_runner import CliEnvironment


def test_init_writes_a_project_that_can_be_prepared_and_trained(cli: CliEnvironment) -> None:
    ran = cli.run("init")
    assert ran.code == 0
    assert "Next: ftpipe prepare" in ran.err
    assert sorted(path.name for path in Path().iterdir()) == ["example.jsonl", "ftpipe.toml"]
    report = cli.run("prepare", "--json")
    assert report.code == 0, report.err
    assert [finding["severity"] for finding in report.document["findings"] if finding["severity"] != "info"] == []
    plan = cli.run("train", "--dry-run")
    assert plan.code == 0, plan.err
    assert "3 epochs" in plan.err


def test_init_overwrites_nothing(cli: CliEnvironment) -> None:
    """One file of the user stays, the other is written; then nothing is left to do."""
    Path("ftpipe.toml").write_text('provider = "openai"\n')
    ran = cli.run("init", "--json")
    assert (ran.document["written"], ran.document["kept"]) == (["example.jsonl"], ["ftpipe.toml"])
    assert Path("ftpipe.toml").read_text() == 'provider = "openai"\n'
    Path("example.jsonl").write_text("mine\n")
    again = cli.run("init")
    assert again.code == 2
    assert "ftpipe.toml and example.jsonl exist already" in again.err
    assert Path("example.jsonl").read_text() == "mine\n"
