"""Options that several commands share, each said once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
FILE = click.Path(path_type=Path)

data = click.argument("data", required=False, type=FILE)
validation = click.option("--validation", type=FILE, metavar="FILE", help="Validation file.")
model = click.option("--model", metavar="MODEL", help="Base model; the provider's usual one where not given.")
epochs = click.option("--epochs", metavar="N", help="Passes over the data: 1 to 50, or auto.")
method = click.option(
    "--method", metavar="NAME", help="supervised, dpo or reinforcement; read from the data where not given."
)
seed = click.option("--seed", metavar="N", help="Makes the work repeatable.")
provider = click.option(
    "--provider", metavar="NAME", help="local (free, the default), openai, azure, nebius, or one of your own."
)
output = click.option("--output", type=FILE, metavar="DIR", help="Folder to write to.")


def combine_options(*decorators: Decorator) -> Decorator:
    """Several options as one decorator, listed in help in the order given."""

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply
