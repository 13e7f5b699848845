"""Options that several commands share."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ftpipe.cli.context import CliContext
from ftpipe.errors import MissingExtraError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _set_force(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    context = ctx.ensure_object(CliContext)
    context.force = context.force or value


def _set_trusted_hosts(ctx: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> None:
    ctx.ensure_object(CliContext).trusted_hosts += value


class OutputFile(click.Path):
    """A file that a command writes: it must be new, or ``--force`` must be given."""


class NumberRange(click.FloatRange):
    """A finite number in a range: ``nan`` compares as false, so it would pass each limit."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """Convert a text, and refuse ``nan`` and ``inf``."""
        if not math.isfinite(click.FLOAT.convert(value, param, ctx)):
            self.fail(f"{value!r} is not a number", param, ctx)
        return super().convert(value, param, ctx)


class RowLine(click.IntRange):
    """A line from 1 on; the flag without a line stands for the first row, line 0 for callers."""

    name = "line"
    FIRST_ROW = "first"

    def __init__(self) -> None:
        super().__init__(min=1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """Convert ``first`` to 0."""
        return 0 if value == self.FIRST_ROW else super().convert(value, param, ctx)


FILE = click.Path(path_type=Path)
"""A file that a command reads."""
OUTPUT_FILE = OutputFile(path_type=Path)
CONTINUED_FILE = click.Path(path_type=Path, dir_okay=False)
"""A file to which a command appends if it has written it before; any other file that exists is refused."""
FOLDER = click.Path(path_type=Path, file_okay=False)

data = click.argument("data", required=False, type=FILE)
validation = click.option("--validation", type=FILE, metavar="FILE", help="Validation file.")
model = click.option("--model", metavar="MODEL", help="Base model.  [default: the provider's default model]")
epochs = click.option("--epochs", metavar="N", help="Passes over the training data: 1 to 50, or auto.")
method = click.option(
    "--method", metavar="NAME", help="Training method: supervised, dpo or reinforcement.  [default: read from the data]"
)
seed = click.option("--seed", metavar="N", help="Random seed; the same seed gives the same result.")
provider = click.option(
    "--provider",
    metavar="NAME",
    help="Where to train: local (free), openai, azure, nebius, together, fireworks, bedrock, or one in ftpipe.toml.  "
    "[default: the configured or last one, or local]",
)
rules_of = click.option(
    "--provider", metavar="NAME", help="Provider whose rules apply.  [default: the configured or last one, or local]"
)
output = click.option("--output", type=FOLDER, metavar="DIR", help="Output folder.")
trust_host = click.option(
    "--trust-host",
    "trusted_hosts",
    multiple=True,
    metavar="URL",
    expose_value=False,
    callback=_set_trusted_hosts,
    help="Send keys and data to this host although ftpipe.toml names it, or without TLS. It is remembered. Repeatable.",
)
force = click.option(
    "--force",
    is_flag=True,
    expose_value=False,
    callback=_set_force,
    help="Replace output files that exist. Input files are never replaced.",
)
yes_delete = click.option("-y", "--yes", is_flag=True, help="Delete without asking.")
only_registry = click.option(
    "--only-registry", is_flag=True, help="Remove it only from the registry, and keep it at the provider."
)
detach = click.option("--detach", is_flag=True, help="Return as soon as the job is created.")
timeout = click.option(
    "--timeout", type=NumberRange(min=0), metavar="SECONDS", help="Maximum time to wait; exit code 8 after that."
)


def combine_options(*decorators: Decorator) -> Decorator:
    """Combine several options into one decorator; help lists them in this order."""

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def listen_options(host: str, port: int) -> Decorator:
    """The options of a server that listens, with their defaults."""
    return combine_options(
        click.option(
            "--host",
            default=host,
            show_default=True,
            help="Address to listen on; any other than loopback needs --api-key-file.",
        ),
        click.option(
            "--port",
            type=click.IntRange(0, 65535),
            metavar="N",
            default=port,
            show_default=True,
            help="Port to listen on; 0 for any free port.",
        ),
    )


recipe = click.option(
    "--recipe",
    type=click.Choice(("default", "brief")),
    help="LoRA settings by name: brief is rank 16, alpha 32, dropout 0.05 on q_proj,v_proj; local or together.",
)
memory_settings = combine_options(
    click.option(
        "--max-length",
        metavar="N",
        help="Tokens per row, up to the base model's context; local.  [default: 2048, with a GPU 8192]",
    ),
    click.option(
        "--precision",
        type=click.Choice(("float32", "bfloat16")),
        help="Precision of the base model; local.  [default: what the machine computes faster]",
    ),
    click.option(
        "--quantization",
        type=click.Choice(("none", "4bit", "8bit")),
        help="Quantize the base model to save memory; local.  [default: 4bit if it does not fit otherwise]",
    ),
    click.option(
        "--gradient-checkpointing/--no-gradient-checkpointing",
        default=None,
        help="Compute layers twice to save memory; local.  [default: if it does not fit otherwise]",
    ),
)


def require_ray() -> None:
    """Raise if Ray is not installed, because every job would fail.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("--engine ray needs the extra ray", "pip install 'ftpipe[ray]'")
