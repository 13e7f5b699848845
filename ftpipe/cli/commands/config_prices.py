"""``ftpipe config prices``: show the prices behind the estimates, or replace them with those of a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command
from ftpipe.errors import UsageError
from ftpipe.formatting import fit_table, plural, relative_path, sanitize_line


@click.command(
    cls=Command,
    example="ftpipe config prices\nftpipe config prices --toml > prices.toml\nftpipe config prices prices.toml",
)
@click.argument("file", required=False, type=shared.FILE)
@click.option("--toml", "as_toml", is_flag=True, help="Print the prices as a file that you can change and give back.")
@pass_cli_context
def prices(context: CliContext, file: Path | None, as_toml: bool) -> None:
    """Show the prices behind all estimates, with their source and date, or replace them with those of FILE.

    FILE is checked first and copied into your own folder for all projects; its rows replace those that ftpipe comes
    with, and [prices] in ftpipe.toml replaces both. A malformed FILE changes nothing.
    """
    from ftpipe.catalog.price_file import keep_prices, price_file

    if file is not None:
        if as_toml:
            raise UsageError("FILE and --toml were given", "leave out one of them")
        keep_prices(file, datetime.now(UTC).date())
        context.print_status(f"prices of {sanitize_line(relative_path(file), 300)} copied to {price_file()}")
    tables = merged_prices()
    rows = list(rows_of(tables))
    context.add(prices=rows, file=price_file() if price_file().is_file() else None)
    if as_toml:
        context.print_document("\n".join(toml_of(tables)))
        return
    header = ["provider", "model", "training", "input", "cached", "output", "as of", "source"]
    shown = [[sanitize_line(_cell(row[key]), 60) for key in _COLUMNS] for row in rows]
    context.print_result(fit_table([header, *shown], width=None, right=range(2, 6), style=context.style))
    kept = f"from {price_file()} and ftpipe" if price_file().is_file() else "of ftpipe itself"
    context.print_status(
        f"\n{plural(len(rows), 'model')}; per million tokens, input and output of a tuned model; {kept}"
    )


_COLUMNS = ("provider", "model", "training", "input", "cached", "output", "as_of", "source")
Tables = dict[tuple[str, str], dict[str, dict[str, object]]]
"""Provider and kind (``training``, ``base``, ``tuned``) → model → price, date, source and currency."""


def merged_prices() -> Tables:
    """The prices of ftpipe with those of the kept file on top."""
    from ftpipe.catalog.inference_prices import inference_rows
    from ftpipe.catalog.price_file import PROVIDERS
    from ftpipe.catalog.training_prices import PriceTable

    tables: Tables = {}
    for provider in PROVIDERS:
        for row in PriceTable.load(target=provider).rows():
            as_of = row.as_of.isoformat() if row.as_of else None
            tables.setdefault((provider, "training"), {})[row.model] = {
                "price": row.training, "as_of": as_of, "source": row.source, "currency": row.currency,
            }  # fmt: skip
        for kind in ("base", "tuned"):
            for model, price in inference_rows(provider, kind).items():
                tables.setdefault((provider, kind), {})[model] = {
                    "price": [price.input, *([] if price.cached is None else [price.cached]), price.output],
                    "as_of": price.as_of, "source": price.source, "currency": price.currency,
                }  # fmt: skip
    return tables


def rows_of(tables: Tables) -> Iterator[dict[str, object]]:
    """One row for each model of a provider: the training price, and the prices of answers of a model tuned from it."""
    for provider in dict.fromkeys(provider for provider, _ in tables):
        training, tuned = tables.get((provider, "training"), {}), tables.get((provider, "tuned"), {})
        for model in dict.fromkeys([*training, *tuned]):
            known = training.get(model) or tuned[model]
            answer = tuned.get(model, {}).get("price")
            numbers = answer if isinstance(answer, list) else [None, None]
            yield {
                "provider": provider,
                "model": model,
                "training": training.get(model, {}).get("price"),
                "input": numbers[0],
                "cached": numbers[1] if len(numbers) == 3 else None,
                "output": numbers[-1],
                "currency": known["currency"],
                "as_of": known["as_of"],
                "source": known["source"],
            }


def toml_of(tables: Tables) -> list[str]:
    """The prices in the form of a price file; source and date are those of the oldest row of each provider."""
    lines: list[str] = []
    for provider in dict.fromkeys(provider for provider, _ in tables):
        rows = [row for (name, _), table in tables.items() if name == provider for row in table.values()]
        oldest = min(rows, key=lambda row: str(row["as_of"]))
        lines += [
            f"[{provider}]",
            f"source = {json.dumps(oldest['source'])}",
            f"as_of = {oldest['as_of']}",
            f'currency = "{oldest["currency"]}"',
        ]
        for (name, kind), table in tables.items():
            if name == provider:
                lines += [f"[{provider}.{kind}]"]
                lines += [f"{json.dumps(model)} = {json.dumps(row['price'])}" for model, row in table.items()]
        lines.append("")
    return lines[:-1]


def _cell(value: object) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, int | float) else str(value)
