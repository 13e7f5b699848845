"""``ftpipe convert``: convert files of other formats to chat or preference JSONL, and check the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import require_file
from ftpipe.cli.group import Command
from ftpipe.errors import DatasetError, UsageError
from ftpipe.formatting import plural, sanitize_line

if TYPE_CHECKING:
    from ftpipe.dataset.conversion.convert import ConversionResult
    from ftpipe.records import Report

MAX_SKIPPED_SHOWN = 10
"""Skipped rows that are listed."""
MAX_KEYS_SHOWN = 12
"""Keys that are listed."""
NOT_CHECKED = "FT112,FT113"
"""Rules about the size of a dataset, which a part of it need not keep."""


@click.command(cls=Command, example="ftpipe convert alpaca.json\nftpipe convert tickets.csv --columns question,answer")
@click.argument("data", type=shared.FILE)
@click.option("-o", "--output", type=shared.OUTPUT_FILE, metavar="FILE", help="Output file.  [default: next to DATA]")
@click.option("--system", default="", metavar="TEXT", help="System message for dialogues without one.")
@click.option("--columns", metavar="Q,A", help="Question and answer columns of a table.  [default: detected]")
@click.option("--no-header", is_flag=True, help="The table has no header row; its columns are 1, 2, …")
@click.option(
    "--to",
    "purpose",
    type=click.Choice(["chat", "preference"]),
    help="Kind of examples to write.  [default: preference for rows that compare two answers, else chat]",
)
@click.option(
    "--reasoning",
    type=click.Choice(["think", "drop"]),
    help="Reasoning in a key of its own: write it before the answer in <think> tags, or leave it out.",
)
@click.option(
    "--ignore-key",
    "ignored_keys",
    multiple=True,
    metavar="KEY",
    help="Convert without this key, although it changes what is learnt. Repeatable.",
)
@click.option("--keep-nan", is_flag=True, help="Keep cells of a table that say nan, None or NULL as text.")
@click.option("--encoding", metavar="NAME", help="Encoding of DATA, such as cp1252.  [default: detected]")
@click.option("--sheet", metavar="NAME", help="Sheet of an Excel workbook.  [default: the only one with rows]")
@pass_cli_context
def convert(
    context: CliContext,
    data: Path,
    output: Path | None,
    system: str,
    columns: str | None,
    no_header: bool,
    purpose: str | None,
    reasoning: str | None,
    ignored_keys: tuple[str, ...],
    keep_nan: bool,
    encoding: str | None,
    sheet: str | None,
) -> None:
    """Convert DATA to chat JSONL, or to preference JSONL if it compares answers, and check the result.

    DATA is prompt/completion, Alpaca, Dolly, ShareGPT, chosen/rejected, KTO, or an export of another tool, as JSON
    Lines, JSON, CSV, Excel or Parquet, also compressed. It is not changed. All keys are accounted for: one that changes
    what is learnt, such as a weight or a context, is converted, or the file is refused. The exit code is 1 if the
    result has errors.
    """
    from ftpipe.dataset.conversion.convert import convert as convert_file
    from ftpipe.dataset.conversion.convert import purpose_of
    from ftpipe.dataset.conversion.row import ConversionOptions, normalize_key
    from ftpipe.dataset.decoder import unpacked_name

    require_file(data)
    names = tuple((columns or "1,2").split(",")) if columns or no_header else None
    if names is not None and len(names) != 2:
        raise UsageError(f"--columns needs two names, got {len(names)}", "give them as --columns QUESTION,ANSWER")
    options = ConversionOptions(
        system=system,
        columns=(names[0], names[1]) if names else None,
        has_header=not no_header,
        purpose=purpose or "",
        reasoning=reasoning or "",
        ignored_keys=frozenset(map(normalize_key, ignored_keys)),
        keeps_nan=keep_nan,
        encoding=encoding,
        sheet=sheet,
    )
    target = output or data.with_name(f"{Path(unpacked_name(data)).stem}.{purpose_of(data, options)}.jsonl")
    done = convert_file(data, target, options, force=context.force)
    report = _check(context, done)
    context.add(**done._asdict() | {"skipped": [row._asdict() for row in done.skipped], "summary": report.summary})
    context.print_result(list(_result_lines(done, data)))
    context.print_status([*_encoding_note(context, data, encoding), *_notes(done)])
    if report.summary.errors:
        codes = ", ".join(dict.fromkeys(finding.code for finding in report.findings if finding.severity == "error"))
        raise DatasetError(
            f"{target.name} was written, but it has {plural(report.summary.errors, 'error')}: {codes}",
            f"`ftpipe validate {quote(str(target))}` shows the lines",
        )
    context.print_next(f"ftpipe prepare {quote(str(target))}")


def _check(context: CliContext, done: ConversionResult) -> Report:
    """Check the converted file like ``validate``, except for its size."""
    from ftpipe.cli.check_options import check_settings
    from ftpipe.cli.dataset_request import resolve_for_prepare
    from ftpipe.cli.output.progress import file_progress
    from ftpipe.stages.validate import ScanObserver, validate

    settings = context.settings()
    request = resolve_for_prepare(settings, data=done.output)
    rules = check_settings(settings.config, ignore=NOT_CHECKED)
    with file_progress(context, "checking", done.output) as progress:
        return validate(request.data, target=request.target, settings=rules, observer=ScanObserver(progress))


def _encoding_note(context: CliContext, data: Path, encoding: str | None) -> Iterator[str]:
    """That the encoding was guessed, with a word by which the guess can be judged."""
    from ftpipe.dataset.source_readers import guessed_encoding

    guess = guessed_encoding(data) if encoding is None else None
    if guess is not None:
        context.add(encoding=guess.encoding)
        yield (
            f"read as Windows-1252, because it is not UTF-8; if “{sanitize_line(guess.sample, 40)}” is wrong, give the"
            " encoding with --encoding"
        )


def _result_lines(done: ConversionResult, data: Path) -> Iterator[str]:
    what = plural(done.records, "record" if done.purpose == "chat" else "preference pair")
    names = [sanitize_line(name, 60) for name in done.formats]
    table = f"a table ({sanitize_line(data.suffix.lstrip('.').upper() or 'no extension', 20)})"
    yield f"{sanitize_line(done.output, 300)}  {what} from {', '.join(table if n == 'table' else n for n in names)}"
    yield f"keys used     {_keys(done.keys_used)}"
    if done.keys_ignored:
        yield f"keys ignored  {_keys(done.keys_ignored)}"


def _keys(counts: Mapping[str, int]) -> str:
    shown = [f"{sanitize_line(name, 60)} ({number:,})" for name, number in list(counts.items())[:MAX_KEYS_SHOWN]]
    more = [f"and {len(counts) - MAX_KEYS_SHOWN:,} more"] if len(counts) > MAX_KEYS_SHOWN else []
    return ", ".join([*shown, *more])


def _notes(done: ConversionResult) -> Iterator[str]:
    """What was left out or taken off."""
    if done.stripped:
        yield f"markers of the legacy format taken off: {done.stripped}"
    if done.skipped_total:
        yield f"{plural(done.skipped_total, 'row')} skipped:"
        yield from (f"  {sanitize_line(row, 300)}" for row in done.skipped[:MAX_SKIPPED_SHOWN])
        if done.skipped_total > MAX_SKIPPED_SHOWN:
            yield f"  … and {done.skipped_total - MAX_SKIPPED_SHOWN:,} more; by reason:"
            yield from (
                f"  {number:,} × {sanitize_line(reason, 200)}"
                for reason, number in list(done.skipped_reasons.items())[:MAX_SKIPPED_SHOWN]
            )
    if done.pairs_possible:
        yield f"{plural(done.pairs_possible, 'prompt')} with good and bad answers: --to preference pairs them"
