"""Options classes of the commands: their fields are the parameters, with the same defaults."""

from __future__ import annotations

import importlib
from dataclasses import asdict, fields

import click
import pytest

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
