"""A terminal of 80 columns: documents for programs are never wrapped."""

from __future__ import annotations

import sys

import pytest

from tests.cli.cli_runner import CliEnvironment, chat_file

WIDTH = 80


def use_terminal(monkeypatch: pytest.MonkeyPatch, columns: int = WIDTH) -> None:
    """Make standard output a terminal without colors."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")


BAD_ROW = '{"messages": [{"role": "user", "content": "Hello"}]}\n'


@pytest.mark.parametrize("command", ["validate", "prepare"])
@pytest.mark.parametrize("output_format", ["ndjson", "json", "sarif", "gitlab", "github", "junit"])
def test_documents_are_not_wrapped(
    cli: CliEnvironment, monkeypatch: pytest.MonkeyPatch, command: str, output_format: str
) -> None:
    argv = [command, str(chat_file(extra=BAD_ROW)), "--output-format", output_format]
    written = cli.run(*argv).out
    assert max(map(len, written.splitlines())) > WIDTH
    use_terminal(monkeypatch)
    assert cli.run(*argv).out == written
