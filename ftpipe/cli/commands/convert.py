"""``ftpipe convert``: chat JSONL from prompt/completion, Alpaca, ShareGPT, JSON arrays, CSV or Parquet."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import click

from ftpipe.cli import options
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import require_file
from ftpipe.cli.group import Command
from ftpipe.errors import UsageError
from ftpipe.formatting import plural, sanitize_line

SHOWN = 10
"""Rows left out that are named."""


@click.command(cls=Command, example="ftpipe convert alpaca.json\nftpipe convert tickets.csv --columns question,answer")
@click.argument("data", type=options.FILE)
@click.option("-o", "--output", type=options.FILE, metavar="FILE", help="The new file; beside DATA where not given.")
@click.option("--system", default="", metavar="TEXT", help="System message for every dialogue that has none.")
@click.option("--columns", metavar="Q,A", help="The columns of question and answer, where they cannot be guessed.")
@pass_cli_context
def convert(context: CliContext, data: Path, output: Path | None, system: str, columns: str | None) -> None:
    """Write the records of DATA as chat JSONL. The old file stays as it is."""
    from ftpipe.dataset.convert import convert as convert_file

    require_file(data)
    named = tuple(columns.split(",")) if columns else None
    if named is not None and len(named) != 2:
        raise UsageError(f"--columns names {plural(len(named), 'column')}, not two", "--columns question,answer")
    target = output or data.with_name(f"{data.stem}.chat.jsonl")
    done = convert_file(data, target, system=system, columns=(named[0], named[1]) if named else None)
    context.add(**done._asdict() | {"skipped": [row._asdict() for row in done.skipped]})
    source_format = sanitize_line(done.source_format, 60)
    context.print_result(f"{sanitize_line(done.output, 300)}  {plural(done.records, 'record')} from {source_format}")
    if done.skipped_total:
        context.print_status(f"{plural(done.skipped_total, 'row')} skipped:")
        context.print_status([f"  {sanitize_line(row, 300)}" for row in done.skipped[:SHOWN]])
        if done.skipped_total > SHOWN:
            context.print_status(f"  … and {done.skipped_total - SHOWN:,} more")
    context.print_status(f"{context.style_err('bold', 'Next:')} ftpipe prepare {quote(str(done.output))}")
