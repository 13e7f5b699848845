"""``ftpipe explain``: rules, error codes and exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ftpipe import errors
from ftpipe.dataset.rules import all_rules
from ftpipe.reports.provider_error_codes import ERROR_EXPLANATIONS
from tests.cli.cli_runner import CliEnvironment, chat_file
from tests.docs.reference import error_kinds


def test_explain_rules_error_codes_and_exit_codes(cli: CliEnvironment) -> None:
    """Rules by code and name, endpoint codes, exit codes, and the nearest for a slip."""
    assert "missing-role" in cli.run("explain", "ft204").out
    assert "FT204" in cli.run("explain", "missing-role").out
    assert "cannot create" in cli.run("explain", "training_not_available").out
    assert "outcome_unknown" in cli.run("explain", "7").out
    assert "FT204" in cli.run("explain").out
    assert "did you mean missing-role" in cli.run("explain", "missing-rle").err


def test_explain_start_of_a_code_lists_its_rules(cli: CliEnvironment) -> None:
    listed = [line.split()[0] for line in cli.run("explain", "ft20").out.splitlines()]
    assert "FT204" in listed and {code[:4] for code in listed} == {"FT20"}
    assert cli.run("explain", "FT99").code == 2


@pytest.mark.parametrize("kind", error_kinds(), ids=lambda kind: kind.__name__)
def test_explain_error_code_of_ftpipe(cli: CliEnvironment, kind: type[errors.FtpipeError]) -> None:
    """Every code that an error can have in JSON output, except those that are explained as a provider's code."""
    ran = cli.run("explain", kind.code)
    assert ran.code == 0
    assert "``" not in ran.out
    assert kind.code in ERROR_EXPLANATIONS or f"exit code {kind.exit_code}" in ran.out


@pytest.mark.parametrize("code", errors.EXIT_CODES)
def test_explain_exit_code_begins_with_its_meaning(cli: CliEnvironment, code: int) -> None:
    """The sentence is the one of the documentation; the base class of the errors is not listed."""
    lines = cli.run("explain", str(code)).out.splitlines()
    assert lines[:2] == [f"exit code {code}", f"  {errors.EXIT_CODES[code]}"]
    assert not any(line.startswith("  error:") for line in lines)


@pytest.mark.parametrize(("code", "command"), [("FT208", "prepare --fix --unsafe-fixes"), ("FT219", "prepare --fix")])
def test_explain_rule_shows_command_of_its_fix(cli: CliEnvironment, code: str, command: str) -> None:
    """Unsafe fixes need a second flag."""
    line = next(line for line in cli.run("explain", code).out.splitlines() if "automatic" in line)
    assert line.endswith(command)


def test_explain_basis_contradicts_neither_itself_nor_the_source(cli: CliEnvironment) -> None:
    """A rule without a documented limit does not claim one; local tools are not a provider."""
    shown = cli.run("explain", "--all").out
    assert "documented limit; inferred" not in shown
    assert "observed at the provider" not in shown


COMMANDS = {
    "ftpipe convert FILE": ("FT004", "FT103", "FT111"),
    "ftpipe split FILE": ("FT604",),
    "ftpipe prepare FILE --split 0.1": ("FT703",),
}
"""Commands that the rules' explanations name, with the rules."""


def test_explain_names_only_commands_that_help(cli: CliEnvironment) -> None:
    """Each command that a rule's fix names runs on a file made for it, and its result lacks the finding."""
    named: dict[str, set[str]] = {}
    for rule in all_rules():
        for command in re.findall(r"`(ftpipe [^`]+)`", rule.text.fix):
            named.setdefault(command, set()).add(rule.code)
    assert {command: set(rules) for command, rules in COMMANDS.items()} == named
    rows = [json.loads(line) for line in chat_file("all.jsonl", rows=20).read_text().splitlines()]
    pairs = [{"prompt": f"What is {n}?", "completion": f"It is number {n}."} for n in range(12)]
    Path("array.json").write_text(json.dumps(rows))
    Path("pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    Path("utf16.jsonl").write_text(Path("all.jsonl").read_text(), encoding="utf-16")
    for name, code in (("array.json", "FT103"), ("pairs.jsonl", "FT111"), ("utf16.jsonl", "FT004")):
        assert code in counts(cli, name)
        output = cli.run("convert", name, "--json").document["output"]
        assert code not in counts(cli, str(output["path"] if isinstance(output, dict) else output))
    assert cli.run("split", "all.jsonl", "--fraction", "0.2").code == 0
    document = cli.run("prepare", "all.jsonl", "--split", "0.1", "--json").document
    assert document["validation"]["examples"] == 2
    assert "FT703" not in document["summary"]["counts"]


def counts(cli: CliEnvironment, path: str) -> dict[str, int]:
    """Rule code → number of findings in a file."""
    [file] = cli.run("validate", path, "--json").document["files"]
    return dict(file["summary"]["counts"])


def test_explain_says_that_a_rule_has_no_automatic_fix(cli: CliEnvironment) -> None:
    assert "automatic  none" in cli.run("explain", "FT204").out
