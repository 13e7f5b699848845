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
from tests.cli.cli_runner import CliEnvironment

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
def test_every_error_ends_with_its_code_in_at_most_three_lines(
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
def test_every_other_exception_has_a_code_too(
    raised: BaseException, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupts, the disk, missing packages and faults of our own."""
    assert execute(raising(raised), ["act"]) == code
    assert says in capsys.readouterr().err


def test_the_traceback_is_shown_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """``--debug`` and nothing else shows it."""
    execute(raising(KeyError("x")), ["act", "--debug"])
    assert "Traceback" in capsys.readouterr().err


def test_an_error_is_one_document_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """The document names the command and carries code, hint and whether money may be gone."""
    code = execute(raising(OutcomeUnknownError("lost", "ftpipe resume")), ["act", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert code == 7
    assert (document["schema"], document["ok"], document["error"]["paid"]) == ("ftpipe.act/1", False, "unknown")


def test_hostile_text_in_an_error_reaches_the_terminal_inert(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences, line breaks and markup of an endpoint are shown as text."""
    execute(raising(FtpipeError("\x1b]0;x\x07 [/nope]\nsecond\u202e", "\x1b[2J")), ["act"])
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "\u202e" not in err
    assert "[/nope]" in err
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize("argv", [["act"], ["act", "--json"], ["act", "--debug"]])
def test_a_key_is_never_written(
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
        (["status", "--timeout", "x"], "see `ftpipe status --help`"),
        (["zzz"], "there is no command 'zzz'"),
    ],
)
def test_a_wrong_word_is_answered_with_the_nearest_right_one(world: CliEnvironment, argv: list[str], says: str) -> None:
    """Verbs and options, at every level, with the usage code."""
    ran = world.run(*argv)
    assert ran.code == 2
    assert says in ran.err


def test_a_wrong_option_is_a_document_under_the_commands_name(world: CliEnvironment) -> None:
    """Also where the command line itself is wrong, stdout holds one document."""
    ran = world.run("jobs", "list", "--limit", "none", "--json")
    assert ran.code == 2
    assert ran.document["schema"] == "ftpipe.jobs.list/1"
    assert ran.document["error"]["code"] == "usage"


def test_help_is_shown_without_a_command_and_without_an_error(world: CliEnvironment) -> None:
    """``ftpipe`` and ``ftpipe jobs`` alone explain themselves."""
    assert (ran := world.run()).code == 0
    assert "prepare" in ran.out
    assert "adopt" in world.run("jobs").out
    assert root.name == "ftpipe"
