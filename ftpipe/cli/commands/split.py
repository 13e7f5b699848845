"""``ftpipe split``: split a dataset into training and validation files, without leaks between them."""

from __future__ import annotations

from pathlib import Path

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import require_file
from ftpipe.cli.group import Command
from ftpipe.formatting import sanitize_line


@click.command(cls=Command, example="ftpipe split data/all.jsonl --fraction 0.1 --seed 7 --output data/")
@click.argument("data", type=shared.FILE)
@click.option(
    "--fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
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
    """Split DATA into a training and a validation file.

    Records with the same prompt go to the same file, so that nothing leaks from one into the other.
    """
    from ftpipe.dataset.split import split as split_file

    require_file(data)
    folder = output or data.parent
    train, validation, sizes = split_file(data, fraction=fraction, seed=seed, output_dir=folder, force=context.force)
    context.add(train=train, validation=validation, sizes=sizes, seed=seed)
    context.print_result([f"training    {sanitize_line(train, 300)}", f"validation  {sanitize_line(validation, 300)}"])
    context.print_next(f"ftpipe prepare {train} --validation {validation}")
