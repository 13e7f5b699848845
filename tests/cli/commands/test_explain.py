"""``ftpipe explain``: rules, error codes and exit codes."""

from __future__ import annotations

import pytest

from ftpipe import errors
from ftpipe.reports.provider_error_codes import ERROR_EXPLANATIONS
from tests.cli.cli_runner import CliEnvironment
from tests.docs.reference import error_kinds


def test_explain_rules_error_codes_and_exit_codes(cli: CliEnvironment) -> None:
    """Rules by code and name, endpoint codes, exit codes, and the nearest for a slip."""
    assert "missing-role" in cli.run("explain", "ft204").out
    assert "FT204" in cli.run("explain", "missing-role").out
    assert "cannot create" in cli.run("explain", "training_not_available").out
    assert "outcome_unknown" in cli.run("explain", "7").out
    assert "FT204" in cli.run("explain").out
    assert "did you mean missing-role" in cli.run("explain", "missing-rle").err


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
