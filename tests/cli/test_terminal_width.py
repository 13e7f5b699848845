"""A terminal of 80 columns: tables fit, no row is broken, and documents for programs are never wrapped."""

from __future__ import annotations

import sys
from pathlib import Path

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


@pytest.mark.parametrize(
    ("argv", "first", "kept"),
    [
        (("models", "bases"), "base", {"files", "memory"}),
        (("models", "bases", "--provider", "openai"), "base", {"methods", "per 1M tokens", "last day"}),
        (("models", "bases", "--provider", "openai", "--online"), "base", {"per 1M tokens", "last day"}),
    ],
)
def test_tables_of_bases_fit(
    cli: CliEnvironment, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...], first: str, kept: set[str]
) -> None:
    """Fewer columns, and one line for each base."""
    names = [line.split("  ")[0] for line in cli.run(*argv).out.splitlines()]
    use_terminal(monkeypatch)
    lines = cli.run(*argv).out.splitlines()
    assert [line.split("  ")[0] for line in lines] == names
    assert names[0] == first
    assert max(map(len, lines)) <= WIDTH
    assert kept <= {name.strip() for name in lines[0].split("  ")}


def test_settings_fit(cli: CliEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each setting; a long one stands below its key."""
    long_path = "a" * 60 + ".jsonl"
    Path("ftpipe.toml").write_text(f'provider = "openai"\ndata = "{long_path}"\n', encoding="utf-8")
    use_terminal(monkeypatch)
    lines = cli.run("config", "show").out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    at = lines.index("data")
    assert (lines[at + 1], lines[at + 2][:4]) == (f"    {long_path}", "    ")
    assert [line for line in lines if line.startswith(" ")] == lines[at + 1 : at + 3]
    [model] = [line for line in lines if line.startswith("model ")]
    assert model.split() == ["model", "gpt-4.1-mini-2025-04-14", "default", "of", "openai"]


@pytest.mark.parametrize("command", ["models", "jobs"])
def test_lists_fit(cli: CliEnvironment, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Each id in one piece, beside other fields or above them."""
    assert cli.run("train", str(chat_file()), "--provider", "openai", "--suffix", "answers-to-sums", "--yes").code == 0
    [record] = cli.run(command, "list", "--json").document[command]
    use_terminal(monkeypatch)
    lines = cli.run(command, "list").out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert sum(record["id"] in line.split() for line in lines) == 1
    model = record["id"] if command == "models" else record["fine_tuned_model"]
    assert sum(model in line.split() for line in lines) == 1
