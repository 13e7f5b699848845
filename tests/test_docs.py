"""The documentation is true: every command explains itself with an example, and the README shows what there is."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import ftpipe
from ftpipe import errors
from ftpipe.cli import COMMANDS, root
from ftpipe.cli.group import Group

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(group: Group = root, path: str = "ftpipe") -> Iterator[tuple[str, click.Command, str]]:
    """Every command: its full name, itself, and its line in the list of its group."""
    context = click.Context(group)
    for name, (_, line) in group.lazy.items():
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}", command, line
        if isinstance(command, Group):
            yield from commands(command, f"{path} {name}")


ALL = list(commands())


@pytest.mark.parametrize(("name", "command", "line"), ALL, ids=[name for name, *_ in ALL])
def test_every_command_explains_itself_and_ends_in_an_example(name: str, command: click.Command, line: str) -> None:
    """A sentence, every option said, and a line that can be typed."""
    page = command.get_help(click.Context(command, info_name=name))
    assert command.help
    assert line.endswith(".")
    for option in command.params:
        assert not isinstance(option, click.Option) or option.help, option.name
    example = page.rstrip().split("Example:\n")[-1].splitlines()
    assert all(typed.strip().startswith(("ftpipe", "OPENAI_BASE_URL", "FTPIPE_")) for typed in example)
    assert page.rstrip().endswith(example[-1])


@pytest.mark.parametrize(("name", "command", "line"), ALL, ids=[name for name, *_ in ALL])
def test_every_option_of_an_example_exists(name: str, command: click.Command, line: str) -> None:
    """Examples are typed as they stand."""
    example = getattr(command, "example", "")
    known = {word for _, other, _ in ALL for option in other.params for word in option.opts}
    for word in re.findall(r"(?<!\S)--[a-z-]+", example):
        assert word in known


def test_the_readme_names_every_command() -> None:
    """What can be typed can be found."""
    assert [name for name in COMMANDS if f"ftpipe {name}" not in README] == []


def test_the_readme_names_every_exit_code() -> None:
    """The table of codes is the table of the errors."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.exit_code for kind in kinds if issubclass(kind, errors.FtpipeError)}
    table = {int(code) for code in re.findall(r"^\| *(\d+) *\|", README, flags=re.MULTILINE)}
    assert codes | {0} <= table


def test_every_flag_of_the_readme_exists() -> None:
    """No line of the README has become wrong."""
    known = {word for _, command, _ in ALL for option in command.params for word in [*option.opts]} | {
        "--version",
        "--help",
    }
    lines = [line for line in README.splitlines() if "ftpipe " in line]
    for word in {word for line in lines for word in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line)}:
        assert word in known, word


def test_every_path_of_the_readme_exists() -> None:
    """The map of the code is the code."""
    named = set(re.findall(r"`((?:ftpipe|tests|configs|data)/[\w./-]*)`", README))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_version_is_the_same_everywhere() -> None:
    """The package's own ``__version__`` is the one source, and the changelog has a place for what comes next."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["project"]["dynamic"] == ["version"]
    assert settings["tool"]["hatch"]["version"] == {"path": "ftpipe/__init__.py"}
    assert re.fullmatch(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?", ftpipe.__version__)
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_public_face_gives_what_it_lists() -> None:
    """Every name can be imported, and a wrong one is an ordinary error."""
    for name in ftpipe.__all__:
        assert getattr(ftpipe, name) is not None
    with pytest.raises(AttributeError):
        _ = ftpipe.nothing
