"""Errors become exit codes, at most three lines, and one document; nothing else escapes."""

from __future__ import annotations

import json
from collections.abc import Callable

import click
import pytest

from ftpipe import errors
from ftpipe.cli import root
from ftpipe.cli.group import Command, Group
from ftpipe.cli.main import execute
from ftpipe.errors import FtpipeError, OutcomeUnknownError
from tests.cli.cli_runner import CliEnvironment, chat_file

CANARY = "sk-canary-0123456789abcdef"


class OneCommand(Group):
    """A command line whose only command does this.

    Args:
        act: What it does.
    """

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__(name="ftpipe", lazy={"act": ("", "Act.")}, example="ftpipe act")
        self.only = Command("act", callback=act, example="ftpipe act")

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The one command."""
        return self.only if cmd_name == "act" else None


def raising(error: BaseException) -> click.Group:
    """A command line whose only command raises this."""

    def act() -> None:
        raise error

    return OneCommand(act)


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FtpipeError)]
)
def test_main_each_error_has_its_exit_code_and_few_lines(
    kind: type[FtpipeError], capsys: pytest.CaptureFixture[str]
) -> None:
    """What happened and what to do, nothing on stdout, no traceback."""
    code = execute(raising(kind("it broke", "do this")), ["act"])
    out, err = capsys.readouterr()
    assert code == kind.exit_code
    assert out == ""
    assert len(err.splitlines()) <= 3
    assert "it broke" in err
    assert "do this" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (EOFError(), 130, "interrupted"),
        (OSError(28, "No space left on device", "/x/y"), 6, "/x/y: No space left"),
        (ModuleNotFoundError("no torch", name="torch.nn"), 2, "pip install 'ftpipe[local]'"),
        (ModuleNotFoundError("no psycopg", name="psycopg"), 2, "pip install 'ftpipe[postgres]'"),
        (ModuleNotFoundError("no rich", name="rich"), 2, "rich is not installed"),
        (KeyError("x"), 70, "KeyError"),
        (click.BadParameter("no good"), 2, "no good"),
    ],
)
def test_main_maps_other_exceptions_to_exit_codes(
    raised: BaseException, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupts, the disk, missing packages and faults of our own."""
    assert execute(raising(raised), ["act"]) == code
    assert says in capsys.readouterr().err


def test_main_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """``--debug`` and nothing else shows it."""
    execute(raising(KeyError("x")), ["act", "--debug"])
    assert "Traceback" in capsys.readouterr().err


def test_main_json_error_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    """The document names the command and carries code, hint and whether money may be gone."""
    code = execute(raising(OutcomeUnknownError("lost", "ftpipe resume")), ["act", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert code == 7
    assert (document["schema"], document["ok"], document["error"]["paid"]) == ("ftpipe.act/1", False, "unknown")


def test_main_sanitizes_text_of_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences, line breaks and markup of an endpoint are shown as text."""
    execute(raising(FtpipeError("\x1b]0;x\x07 [/nope]\nsecond\u202e", "\x1b[2J")), ["act"])
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "\u202e" not in err
    assert "[/nope]" in err
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize("argv", [["act"], ["act", "--json"], ["act", "--debug"]])
def test_main_redacts_keys(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key that an endpoint repeats in its message is hidden in text, document and traceback."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    execute(raising(FtpipeError(f"Incorrect API key: {CANARY}", CANARY)), argv)
    out, err = capsys.readouterr()
    assert CANARY not in out + err
    assert "***" in err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["trian"], "did you mean `ftpipe train`?"),
        (["models", "lst"], "did you mean `ftpipe models list`?"),
        (["prepare", "--vaildation", "x"], "did you mean --validation?"),
        (["train", "x", "--epoch", "3"], "did you mean --epochs?"),
        (["evaluate", "x", "--max_token", "3"], "did you mean --max-tokens?"),
        (["status", "--timeout", "x"], "see `ftpipe status --help`"),
        (["train", "x", "--epochs", "0"], "give --epochs another value: epochs must be a whole number from 1 to 50"),
        (["zzz"], "there is no command 'zzz'"),
    ],
)
def test_main_suggests_commands_and_options(cli: CliEnvironment, argv: list[str], says: str) -> None:
    """Verbs and options, at every level, with the usage code."""
    ran = cli.run(*argv)
    assert ran.code == 2
    assert ran.err.count(says) == 1


@pytest.mark.parametrize("argv", [["--json"], ["models", "--json"]])
def test_main_writes_a_document_without_a_command(cli: CliEnvironment, argv: list[str]) -> None:
    """Never help text where a program reads JSON."""
    ran = cli.run(*argv)
    assert ran.code == 2 and ran.document["error"]["message"] == "no command was given"


def test_main_suggests_no_option_that_has_little_in_common(cli: CliEnvironment) -> None:
    """``resume`` has no --epochs; --detach is something else."""
    assert "did you mean" not in cli.run("resume", "--epoch", "3").err


def test_main_warns_once_of_an_unknown_variable(cli: CliEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that reads its settings twice goes on, and says it once."""
    monkeypatch.setenv("FTPIPE_PROVDER", "openai")
    ran = cli.run("train", str(chat_file()), "--provider", "openai", "--yes", "--epochs", "3")
    assert ran.code == 0
    assert ran.err.count("FTPIPE_PROVDER") == 1
    assert "did you mean FTPIPE_PROVIDER?" in ran.err


def test_main_json_usage_error_names_the_command(cli: CliEnvironment) -> None:
    """Also where the command line itself is wrong, stdout holds one document."""
    ran = cli.run("jobs", "list", "--limit", "none", "--json")
    assert ran.code == 2
    assert ran.document["schema"] == "ftpipe.jobs.list/1"
    assert ran.document["error"]["code"] == "usage"


def test_main_shows_help_without_a_command(cli: CliEnvironment) -> None:
    """``ftpipe`` and ``ftpipe jobs`` alone explain themselves."""
    assert (ran := cli.run()).code == 0
    assert "prepare" in ran.out
    assert "adopt" in cli.run("jobs").out
    assert root.name == "ftpipe"
