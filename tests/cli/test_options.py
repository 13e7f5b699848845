"""Options classes of the commands: their fields are the parameters, with the same defaults."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import asdict, fields

import click
import pytest

from ftpipe.cli import root
from tests.cli.cli_runner import CliEnvironment

OPTIONS = {
    "prepare": "PrepareOptions",
    "validate": "ValidateOptions",
    "train": "TrainOptions",
    "evaluate": "EvaluateOptions",
    "losses": "LossesOptions",
    "chat": "ChatOptions",
    "serve": "ServeOptions",
}


@pytest.mark.parametrize(("name", "class_name"), OPTIONS.items())
def test_options_match_the_parameters_of_the_command(name: str, class_name: str) -> None:
    module = importlib.import_module(f"ftpipe.cli.commands.{name}")
    command: click.Command = getattr(module, name)
    options = getattr(module, class_name)
    required = [parameter.name for parameter in command.params if parameter.required]
    params = command.make_context(name, ["x"] * len(required)).params
    assert set(params) == {field.name for field in fields(options)}
    defaults = asdict(options(**{key: params[key] for key in required}))
    assert defaults == params


@pytest.mark.parametrize("name", ["prepare", "train", "evaluate", "serve"])
def test_option_groups_name_each_parameter_once(name: str) -> None:
    """A group that names a parameter which does not exist would silently show less."""
    command = getattr(importlib.import_module(f"ftpipe.cli.commands.{name}"), name)
    grouped = [parameter for names in command.groups.values() for parameter in names]
    assert len(grouped) == len(set(grouped)) > 0
    assert set(grouped) <= {parameter.name for parameter in command.params}


def test_option_groups_hide_no_option(cli: CliEnvironment) -> None:
    """Grouped or not, each option is in the help page once."""
    for name in ("prepare", "train", "evaluate", "serve"):
        command = getattr(importlib.import_module(f"ftpipe.cli.commands.{name}"), name)
        assert "\n  [DATA]" not in cli.run(name, "--help").out  # an argument is no option
        shown = re.findall(r"^  (?:-\w, )?(--[a-z-]+)", cli.run(name, "--help").out, flags=re.MULTILINE)
        visible = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
        assert sorted(shown) == sorted(
            [*(one.opts[-1] if one.opts[-1].startswith("--") else one.opts[0] for one in visible), "--help"]
        )


def number_options(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Command and option of each option that takes a number that need not be whole."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from number_options(command, (*path, name))
        for option in command.params:
            if isinstance(option.type, (click.FloatRange, click.types.FloatParamType)):
                yield (*path, name), option.opts[0]


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_options_refuse_numbers_that_are_not_finite(cli: CliEnvironment, value: str) -> None:
    """A limit of ``nan`` dollars would never be reached."""
    options = list(number_options(root))
    assert (("deployments", "create"), "--max-hourly") in options
    for command, option in options:
        ran = cli.run(*command, option, value)
        assert ran.code == 2
        assert f"'{value}' is not a number" in " ".join(ran.err.split()), (command, option)
