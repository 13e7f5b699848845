"""``ftpipe convert``: convert prompt/completion, Alpaca, ShareGPT, JSON arrays, CSV or Parquet to chat JSONL."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import require_file
from ftpipe.cli.group import Command
from ftpipe.errors import UsageError
from ftpipe.formatting import plural, sanitize_line

MAX_SKIPPED_SHOWN = 10
"""Skipped rows that are listed."""


@click.command(cls=Command, example="ftpipe convert alpaca.json\nftpipe convert tickets.csv --columns question,answer")
@click.argument("data", type=shared.FILE)
@click.option("-o", "--output", type=shared.OUTPUT_FILE, metavar="FILE", help="Output file.  [default: next to DATA]")
@click.option("--system", default="", metavar="TEXT", help="System message for dialogues without one.")
@click.option("--columns", metavar="Q,A", help="Question and answer columns of a table.  [default: detected]")
@pass_cli_context
def convert(context: CliContext, data: Path, output: Path | None, system: str, columns: str | None) -> None:
    """Convert DATA from prompt/completion, Alpaca, ShareGPT, JSON arrays, CSV or Parquet to chat JSONL.

    DATA itself is not changed.
    """
    from ftpipe.dataset.convert import convert as convert_file

    require_file(data)
    names = tuple(columns.split(",")) if columns else None
    if names is not None and len(names) != 2:
        raise UsageError(f"--columns needs two names, got {len(names)}", "give them as --columns QUESTION,ANSWER")
    target = output or data.with_name(f"{data.stem}.chat.jsonl")
    done = convert_file(
        data, target, system=system, columns=(names[0], names[1]) if names else None, force=context.force
    )
    context.add(**done._asdict() | {"skipped": [row._asdict() for row in done.skipped]})
    source_format = sanitize_line(done.source_format, 60)
    if source_format == "table":
        source_format = f"a table ({sanitize_line(data.suffix.lstrip('.').upper() or 'no extension', 20)})"
    context.print_result(f"{sanitize_line(done.output, 300)}  {plural(done.records, 'record')} from {source_format}")
    if done.skipped_total:
        context.print_status(f"{plural(done.skipped_total, 'row')} skipped:")
        context.print_status([f"  {sanitize_line(row, 300)}" for row in done.skipped[:MAX_SKIPPED_SHOWN]])
        if done.skipped_total > MAX_SKIPPED_SHOWN:
            context.print_status(f"  … and {done.skipped_total - MAX_SKIPPED_SHOWN:,} more")
    context.print_next(f"ftpipe prepare {quote(str(done.output))}")
