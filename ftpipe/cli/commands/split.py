"""``ftpipe split``: split a dataset into training and validation files, without leaks between them."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import require_file
from ftpipe.cli.group import Command
from ftpipe.formatting import format_table, plural, sanitize_line

if TYPE_CHECKING:
    from ftpipe.dataset.split import SplitSizes


@click.command(cls=Command, example="ftpipe split data/all.jsonl --fraction 0.1 --seed 7 --output data/")
@click.argument("data", type=shared.FILE)
@click.option(
    "--fraction",
    type=shared.NumberRange(0, 1, min_open=True, max_open=True),
    metavar="X",
    default=0.1,
    show_default=True,
    help="Fraction of the records for validation.",
)
@click.option(
    "--seed",
    type=int,
    metavar="N",
    default=0,
    show_default=True,
    help="Random seed; the same seed gives the same split.",
)
@shared.output
@shared.force
@pass_cli_context
def split(context: CliContext, data: Path, fraction: float, seed: int, output: Path | None) -> None:
    """Split DATA into train.jsonl and validation.jsonl, by default in the folder of DATA.

    Records with the same prompt go to the same file, so that nothing leaks from one into the other.
    """
    from ftpipe.dataset.split import split as split_file

    require_file(data)
    folder = output or data.parent
    train, validation, sizes = split_file(data, fraction=fraction, seed=seed, output_dir=folder, force=context.force)
    context.add(train=train, validation=validation, sizes=sizes._asdict(), seed=seed)
    rows = [
        (name, sanitize_line(path, 300), plural(number, "record"), f"{number / (sizes.train + sizes.validation):.1%}")
        for name, path, number in (("training", train, sizes.train), ("validation", validation, sizes.validation))
    ]
    context.print_result(format_table(rows, right=(2, 3)))
    context.print_status(split_note(sizes))
    context.print_next(f"ftpipe prepare {quote(str(train))} --validation {quote(str(validation))}")


def split_note(sizes: SplitSizes) -> str:
    """What was kept together, and what was balanced."""
    labels = f" with {sizes.labels} labels, which are divided evenly" if sizes.labels else ""
    return f"{plural(sizes.groups, 'different prompt')}{labels}; equal prompts are in the same file"
